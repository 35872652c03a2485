"""The plan of a recipe: trained weights, steps and memory, against those of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from echoingpixels.errors import DataError
from echoingpixels.from_pretrained import load, save
from echoingpixels.model import EchoingPixels
from echoingpixels.options import Quant
from echoingpixels.train.plan import Need, Pass, StagePlan, pass_bytes, plan_recipe
from echoingpixels.train.recipe import Data, Lora, Recipe, Stage, read_recipe
from echoingpixels.train.run import Run
from tests.support import tinymodel
from tests.support.program import Program
from tests.support.smalltrain import SIZES
from tools.tiny.build import build_backbone

RECIPES = Path(__file__).parents[2] / "recipes"
FITTED = ("plugin-3b", "qlora-3b", "mine", "echoingpixels-3b", "full-7b")
QUESTIONS = Data(train=Path("questions.jsonl"))  # does not exist
TUNE = Stage("tune", "sieve", steps=3, batch=1, lora=Lora(rank=2))


def only(recipe: Recipe) -> StagePlan:
    (found,) = plan_recipe(recipe).stages
    return found


@pytest.mark.parametrize("name", FITTED)
def test_the_ready_recipes_fit_the_gpus_they_are_planned_for(name: str) -> None:
    recipe = read_recipe(RECIPES / f"{name}.toml")
    needs = [stage.need for stage in plan_recipe(recipe).stages]
    assert recipe.gpu_gb is not None
    assert all(need.fits(recipe.gpu_gb * 1e9) for need in needs)
    if recipe.gpus > 1:
        alone = only(replace(recipe, gpus=1)).need
        assert not alone.fits(recipe.gpu_gb * 1e9)


def test_the_plug_in_fits_with_the_7b_as_its_comment_says() -> None:
    recipe = replace(read_recipe(RECIPES / "plugin-3b.toml"), model="qwen2.5-omni-7b")
    needs = [only(replace(recipe, stage=(replace(recipe.stage[0], layers=layers),))).need for layers in (2, 4)]
    assert [need.fits(24e9) for need in needs] == [True, False]


def test_the_published_recipe_is_as_published() -> None:
    recipe = read_recipe(RECIPES / "echoingpixels-3b.toml")
    (stage,) = recipe.stage
    assert (stage.lr, stage.warm_up, stage.epochs, stage.batch, recipe.gpus) == (2e-5, 0.05, 1, 2, 4)
    assert (recipe.data.max_length, recipe.data.max_frames, recipe.data.max_pixels) == (16_384, 120, 105_369)
    assert (stage.form, stage.layers, stage.sections, stage.tau) == ("fused", 4, (18, 18, 18, 10), 1.0)
    assert stage.learns == ("sieve", "decoder") and stage.keep[0].ratios == (0.2,) and stage.lora is None


def test_the_trained_weights_are_those_of_a_run(tiny: str, tmp_path: Path) -> None:
    for stage in (TUNE, replace(TUNE, lora=None), replace(TUNE, train=("sieve",), lora=None)):
        recipe = Recipe(model=tiny, data=QUESTIONS, stage=(stage,))
        run = Run(recipe, tmp_path)
        modules, _, _ = run.parts(stage)
        learned = sum(weight.numel() for weight in modules.parameters() if weight.requires_grad)
        assert sum(only(recipe).learned.values()) == learned


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(("quant", "value"), [("none", 4), ("nf4", 2)])
def test_activations_are_as_planned(
    checkpointing: bool, quant: Quant, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sizes = replace(SIZES, width=128, layers=6, mlp=512, sections=(8, 8, 8, 8))
    save(EchoingPixels(build_backbone(sizes, "small")), tmp_path / "base")
    if value == 2:  # what a model that is not small computes in
        monkeypatch.setattr("echoingpixels.checkpoints.loading.dtype_of", lambda *_: torch.bfloat16)
    on = load(str(tmp_path / "base"), device="cpu", quant=quant).backbone
    on.thinker.requires_grad_(False)  # type: ignore[attr-defined]
    on.train(checkpointing)  # type: ignore[attr-defined]
    row = tinymodel.stream(on, 20.0)  # type: ignore[arg-type]
    embeds = row.embeds.detach().repeat(1, 4, 1).requires_grad_()
    long = replace(row, embeds=embeds, positions=row.positions.repeat(1, 1, 4), mask=row.mask.repeat(1, 4))

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = on.hidden(long)
        torch.autograd.grad(hidden[:, -1].float().sum(), embeds)
    held = most = 0
    assert measured.profiler is not None and measured.profiler.kineto_results is not None
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    planned = pass_bytes(on.shape, Pass(embeds.shape[1], 6, value), checkpointing)
    assert 0.65 * planned < most < 1.1 * planned


def test_memory_grows_with_length_and_batch_and_shrinks_with_checkpoints_and_gpus() -> None:
    recipe = read_recipe(RECIPES / "full-7b.toml")

    def need(wanted: Recipe) -> Need:
        return only(wanted).need

    base, stage = need(recipe), recipe.stage[0]
    shorter = need(replace(recipe, data=replace(recipe.data, max_length=8192)))
    smaller = need(replace(recipe, stage=(replace(stage, batch=1),)))
    assert shorter.activations < base.activations and smaller.activations < base.activations
    assert need(replace(recipe, checkpointing=False)).activations > 2 * base.activations
    assert need(replace(recipe, gpus=8)).learned < base.learned < need(replace(recipe, gpus=2)).learned


def test_steps_follow_from_the_questions_and_the_gpus(tmp_path: Path) -> None:
    rows = [{"media": "a.mp4", "question": f"What {i}?", "answer": "x"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*map(json.dumps, rows), "no row"]))
    stage = replace(TUNE, steps=0, epochs=2, batch=2, accumulate=4)
    recipe = Recipe(model="qwen2.5-omni-3b", data=Data(train=tmp_path / "rows.jsonl"), stage=(stage,), gpus=2)
    found = plan_recipe(recipe)
    assert (found.questions, found.clips, found.bad, found.stages[0].steps) == (40, 1, 1, 5)


def test_lora_needs_names_of_existing_modules() -> None:
    with pytest.raises(DataError, match="no module named query"):
        plan_recipe(Recipe(model="tiny", data=QUESTIONS, stage=(replace(TUNE, lora=Lora(targets=("query",))),)))


def test_a_dry_run_writes_nothing(ep: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = ep("train", RECIPES / "plugin-3b.toml", "--dry-run")
    assert done.code == 0 and "sieve 313 M" in done.out and "8192" in done.out
    assert "fits a GPU of 24 GB" in done.err and not list(tmp_path.iterdir())
    text = (RECIPES / "plugin-3b.toml").read_text().replace("gpu_gb = 24", "gpu_gb = 8")
    (tmp_path / "small.toml").write_text(text)
    assert "does NOT fit a GPU of 8 GB" in ep("train", tmp_path / "small.toml", "--dry-run").err


def test_a_dry_run_plans_the_named_stages(ep: Program) -> None:
    done = ep("train", RECIPES / "mine.toml", "--dry-run", "--stage", "tuned")
    assert done.code == 0 and "tuned" in done.out and "distil" not in done.out
    unknown = ep("train", RECIPES / "mine.toml", "--dry-run", "--stage", "tunes")
    assert unknown.code == 2 and "Known stages: bank, distil, tuned." in unknown.err


def test_a_missing_recipe_is_an_error_with_a_hint(ep: Program) -> None:
    done = ep("train", "missing.toml", "--dry-run")
    assert done.code == 1 and "missing.toml cannot be read: no such file or directory." in done.err
    assert "hint: Check the path." in done.err
