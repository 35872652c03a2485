"""Puts the results of `make train` into the package as the bundled model: `python -m tools.bundle runs/tiny`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.storage.folders import filling

MODEL, FUSED = "soft", "fused"  # stages whose model, and whose sieve, are bundled
REUSE = 0.1  # default of `--reuse` with this model
TO = ASSETS / "tiny"


def main(out: Annotated[Path, typer.Argument(help="Folder of the training run.")]) -> None:
    """Replace the bundled model and its two sieves, all at once."""
    model, fused = out / MODEL / "model", out / FUSED / "model" / "sieve"
    for folder in (model, fused):
        if not folder.is_dir():
            raise typer.BadParameter(f"{folder} does not exist. Run `make train` to its end.")
    with filling(TO.parent) as made:
        new = shutil.copytree(model, made / TO.name)
        shutil.copytree(fused, new / "sieve-fused")
        config = new / "config.json"
        about = json.loads(config.read_text(encoding="utf-8")) | {"reuse": REUSE}
        config.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
