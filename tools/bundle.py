"""Puts the results of `make train` into the package as the bundled model: `python -m tools.bundle runs/tiny`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.storage.folders import write_text_atomically

MODEL, FUSED = "soft", "fused"  # stages whose model, and whose sieve, are bundled
REUSE = 0.1  # default of `--reuse` with this model
TO = ASSETS / "tiny"


def main(out: Annotated[Path, typer.Argument(help="Folder of the training run.")]) -> None:
    """Replace the bundled model and its two sieves."""
    model, fused = out / MODEL / "model", out / FUSED / "model" / "sieve"
    if not (model.is_dir() and fused.is_dir()):
        raise typer.BadParameter(f"{out} lacks {model if fused.is_dir() else fused}; run `make train` to its end.")
    shutil.rmtree(TO, ignore_errors=True)
    shutil.copytree(model, TO)
    shutil.copytree(fused, TO / "sieve-fused")
    config = TO / "config.json"
    about = json.loads(config.read_text(encoding="utf-8")) | {"reuse": REUSE}
    write_text_atomically(config, json.dumps(about, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    typer.run(main)
