"""Accuracy of windows, for scores and for picks: short clips, with windows as small for them as for an hour of video.

Every row of the table answers the same questions; the first scores all tokens at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echoingpixels import load
from echoingpixels.datasets.reading import read_questions
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.options import GenerateOptions
from echoingpixels.reducers import budget, chunked_scoring
from echoingpixels.reducers.setting import settings
from epcli import console

LIMITS = (
    (chunked_scoring.AT_ONCE, chunked_scoring.WINDOW, budget.PART),
    (160, 100, 100),
    (100, 60, 60),
)  # tokens scored at once, tokens of one window, and tokens that a max-min pick compares with each other


def main(
    data: Annotated[Path, typer.Argument(help="JSONL as `ep evaluate` reads.")],
    limit: Annotated[int | None, typer.Option(help="Number of questions; default all.")] = None,
    reducers: Annotated[str, typer.Option(help="Comma-separated.")] = "cs2,relevance",
    keeps: Annotated[str, typer.Option(help="Comma-separated.")] = "0.1,0.05",
) -> None:
    """Evaluate the tiny model under every limit."""
    model, rows = load("tiny"), read_questions(data, limit)
    chosen = settings(reducers.split(","), [float(keep) for keep in keeps.split(",")])
    for chunked_scoring.AT_ONCE, chunked_scoring.WINDOW, budget.PART in LIMITS:
        for run in evaluate(model, rows, chosen, generate=GenerateOptions(max_new_tokens=8)):
            name = f"{run.setting.reducer} {run.setting.keep}"
            score = f"{100 * (run.score.accuracy or 0):.1f} % of {run.score.questions}"
            console.out(f"| {chunked_scoring.AT_ONCE:,} | {chunked_scoring.WINDOW:,} | {name} | {score} |")


if __name__ == "__main__":
    typer.run(main)
