"""`ep train`: a model from a recipe."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from . import console


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file, such as recipes/tiny.toml.")],
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", help="A stage of the recipe, or bank; several times for several; all if left out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for checkpoints and the model; runs/NAME if left out.")
    ] = None,
) -> None:
    """Train a model stage by stage; a run that was cut short goes on from its last checkpoint.

    The recipe names the model to start from, the data and the stages: docs/training.md.
    Prints the model's folder, which --model takes.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns when it is imported, and the Trainer does so
    from echoingpixels.train.reading import read_recipe
    from echoingpixels.train.run import train_model

    wanted = read_recipe(recipe)
    with redirect_stdout(sys.stderr):  # figures come as the stages go
        model = train_model(wanted, out or Path("runs") / wanted.name, tuple(stage or ()))
    console.out(str(model))
