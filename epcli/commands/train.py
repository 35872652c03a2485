"""`ep train`: a model from a recipe."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from .. import options as o
from ..render.report import big

if TYPE_CHECKING:
    from echoingpixels.train.plan import RecipePlan, StagePlan
    from echoingpixels.train.recipe import Recipe


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file, such as recipes/mine.toml.")],
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", help="Stage of the recipe, or bank; may be repeated. Default: all stages."),
    ] = None,
    out: Annotated[
        Path | None,
        o.output_option("--out", "-o", help="Folder for checkpoints and the model. Default: runs/NAME."),
    ] = None,
    dry_run: Annotated[
        bool, o.output_option("--dry-run", help="Print the stages, steps and estimated memory without training.")
    ] = False,
) -> None:
    """Train a model stage by stage; an interrupted run resumes from its last checkpoint.

    The recipe names the initial model, the data and the stages: docs/training.md.
    Prints the folder of the model, for --model, or of the sieve of a quantized model, for --sieve.
    """
    from echoingpixels.train.recipe import read_recipe

    wanted = read_recipe(recipe)
    if dry_run:
        from echoingpixels.train.plan import plan_recipe

        with redirect_stdout(sys.stderr):
            prospect = plan_recipe(wanted, stage or ())
        _show(wanted, prospect)
        return
    from echoingpixels.train.run import train_model
    from echoingpixels.train.trainer import world

    first = world().is_main_process  # only this process prints
    with redirect_stdout(sys.stderr if first else StringIO()):  # losses are printed during the stages
        model = train_model(wanted, out or Path("runs") / wanted.name, tuple(stage or ()))
    if first:
        console.out(str(model))


def _show(recipe: Recipe, prospect: RecipePlan) -> None:
    header = ("stage", "task", "learns", "steps", "tokens", "frozen", "learned", "activations", "total")
    console.columns(header, [_row(stage) for stage in prospect.stages])
    if recipe.data.train is not None:
        found = f"{prospect.questions} questions about {prospect.clips} clips, {prospect.bad} rows cannot be read"
        console.say(f"{recipe.data.train.name}: {'no such file yet' if prospect.questions is None else found}")
    needs = [stage.need for stage in prospect.stages]
    if recipe.gpu_gb is not None and needs:
        fits = all(need.fits(recipe.gpu_gb * 1e9) for need in needs)
        each = f"each of {recipe.gpus} GPUs" if recipe.gpus > 1 else "a GPU"
        most = big(max(need.total for need in needs), "B")
        console.say(f"{'fits' if fits else 'does NOT fit'} {each} of {recipe.gpu_gb:g} GB: at most {most}")


def _row(stage: StagePlan) -> tuple[str, ...]:
    learned = ", ".join(f"{part} {big(n, '')}" for part, n in stage.learned.items())
    need = stage.need
    sizes = [big(n, "B") for n in (need.frozen, need.learned, need.activations, need.total)]
    return (stage.stage, stage.task, learned, str(stage.steps or "by epochs"), str(stage.tokens), *sizes)
