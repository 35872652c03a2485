"""`ep synth`: labelled clips with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console


def synth(
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; a run that was cut short goes on.")],
    clips: Annotated[int, typer.Option("--clips", help="How many clips to make.")],
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same clips and questions.")],
    questions_per_clip: Annotated[int, typer.Option("--questions-per-clip", help="At most so many of each.")] = 3,
    force: Annotated[bool, typer.Option("--force", help="Overwrite other clips and questions there.")] = False,
) -> None:
    """Make SyncClips: clips with picture and sound, and questions whose answers are known by construction.

    Prints the path of the questions, which `ep evaluate` reads.
    """
    from echoingpixels.synth.dataset import generate

    with console.progress("clips") as progress:
        questions = generate(out_dir, clips, seed, questions_per_clip, progress, force)
    console.out(str(questions))
