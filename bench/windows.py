"""What rating by windows costs in accuracy: short clips, with windows made as small for them as they are for an hour.

Every row of the table answers the same questions; the first rates all tokens at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echoingpixels import load
from echoingpixels.datasets.reading import read_questions
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.options import GenerateOptions
from echoingpixels.reducers import chunked_scoring as windows
from echoingpixels.reducers.setting import settings
from epcli import console
from epcli.options import keeps as read_keeps

LIMITS = ((windows.AT_ONCE, windows.WINDOW), (160, 100), (100, 60))  # rated together, and of one window


def main(
    data: Annotated[Path, typer.Argument(help="JSONL as `ep evaluate` reads.")],
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    reducers: Annotated[str, typer.Option(help="Comma-separated.")] = "cs2,relevance",
    keeps: Annotated[str, typer.Option(help="Comma-separated.")] = "0.1,0.05",
) -> None:
    """Evaluate the tiny model under every limit."""
    model, rows = load("tiny"), read_questions(data, limit)
    chosen = settings(reducers.split(","), read_keeps(keeps))
    for windows.AT_ONCE, windows.WINDOW in LIMITS:
        for run in evaluate(model, rows, chosen, generate=GenerateOptions(max_new_tokens=8)):
            name = f"{run.setting.reducer} {run.setting.keep}"
            score = f"{100 * (run.score.accuracy or 0):.1f} % of {run.score.questions}"
            console.out(f"| {windows.AT_ONCE:,} | {windows.WINDOW:,} | {name} | {score} |")


if __name__ == "__main__":
    typer.run(main)
