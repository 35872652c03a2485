"""`ep synth`: synthetic clips and questions with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console


def synth(
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; an interrupted run resumes.")],
    clips: Annotated[int, typer.Option("--clips", help="Number of clips.")],
    seed: Annotated[int, typer.Option("--seed", help="Random seed; the same seed gives the same clips and questions.")],
    questions_per_clip: Annotated[
        int, typer.Option("--questions-per-clip", help="Maximum number of questions per clip.")
    ] = 3,
    regime: Annotated[
        list[str] | None, typer.Option("--regime", help="balanced, watch, listen or busy; repeatable. Default: all.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite other clips and questions in the folder.")] = False,
) -> None:
    """Generate SyncClips: synthetic clips with video and audio, and questions with known answers.

    Prints the path of the question file, which `ep evaluate` reads.
    """
    from echoingpixels.synth.dataset import generate
    from echoingpixels.synth.timeline import REGIMES

    with console.progress("clips") as progress:
        questions = generate(out_dir, clips, seed, questions_per_clip, progress, force, regime or REGIMES)
    console.out(str(questions))
