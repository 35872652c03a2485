"""Trains the bundled tiny model: `python -m tools.train_tiny recipes/tiny.toml --out runs/tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echoingpixels.train.recipe import read_recipe
from echoingpixels.train.run import train_model
from tools.tiny.recipe import TinyRecipe
from tools.tiny.run import TinyRun


def main(
    recipe: Annotated[Path, typer.Argument(help="recipes/tiny.toml.")],
    stage: Annotated[list[str] | None, typer.Option(help="A stage of the recipe, or bank. Repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; runs/NAME by default.")] = None,
) -> None:
    """Train the stages of a recipe, as `ep train` does, with task encoders and with SyncClips."""
    wanted = read_recipe(recipe, TinyRecipe)
    print(train_model(wanted, out or Path("runs") / wanted.name, tuple(stage or ()), TinyRun))


if __name__ == "__main__":
    typer.run(main)
