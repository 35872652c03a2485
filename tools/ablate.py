"""Trains and scores variants of the sieve, each alike but for one thing: `python tools/ablate.py --help`.

Every variant begins anew on the same frozen decoder, takes as many steps on the same clips, and answers the same
questions. OUT/NAME.json is as `ep evaluate --json` prints it; tools/ablations.py makes a table and a plot of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from echoingpixels.evaluate import Setting, evaluate
from echoingpixels.loading import load
from echoingpixels.options import GenerateOptions, MediaOptions
from echoingpixels.paired import within
from echoingpixels.questions import read_rows
from echoingpixels.train.recipe import Phase, Recipe, Stage
from echoingpixels.train.run import train_model
from epcli.console import progress
from epcli.scores import plain

ONE = 0.001  # of some 340 tokens: exactly one
RATIOS = (0.2, 0.1, 0.05, ONE)
DISTIL = Stage("sieve", "distil", 200, batch=16, share=(0.5, 0.4, 1.0), form="extractive", layers=2, steady=0.35)
FUSED = Stage("sieve", "sieve", 200, batch=16, train=("sieve",), form="fused", layers=2, steady=0.35, lr=5e-4)
FUSED = replace(FUSED, keep=(Phase(1.0, (0.5, 0.2, 0.1, 0.05)),))
VARIANTS: dict[str, Stage] = {
    "extractive": DISTIL,
    "fused": FUSED,
    "extractive-1": replace(DISTIL, layers=1),
    "extractive-4": replace(DISTIL, layers=4),
    "extractive-causal": replace(DISTIL, bidirectional=False),
    "extractive-blind": replace(DISTIL, question=False),
    "fused-1": replace(FUSED, layers=1),
    "fused-4": replace(FUSED, layers=4),
    "fused-causal": replace(FUSED, bidirectional=False),
    "fused-blind": replace(FUSED, question=False),
}
UNTRAINED = "untrained"
BESIDE = {  # reducers that go by the same scores, or by none
    "extractive": ("cs2", "cs2-proportional", "cs2-half"),
    "fused": ("cs2", "cs2-random"),
    UNTRAINED: ("uniform", "random", "repeats", "fastv"),
}


def settings(name: str) -> list[Setting]:
    """What is asked of a variant."""
    full = [Setting("full", 1.0)] if name == UNTRAINED else []
    video = [Setting("cs2-video", keep) for keep in RATIOS[:3]] if name == "extractive" else []
    return full + [Setting(reducer, keep) for reducer in BESIDE.get(name, ("cs2",)) for keep in RATIOS] + video


def main(
    model: Annotated[str, typer.Argument(help="The model, without a sieve.")],
    bank: Annotated[Path, typer.Argument(help="OUT/bank of its training: the clips to learn from.")],
    data: Annotated[Path, typer.Argument(help="Questions to answer, as for `ep evaluate`.")],
    out: Annotated[Path, typer.Argument(help="Folder for the trained sieves and the scores.")],
    only: Annotated[list[str] | None, typer.Option(help="Variants, if not all.")] = None,
) -> None:
    """Train and score the sieve's variants; what is done already is left as it is."""
    for name in only or [UNTRAINED, *VARIANTS]:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        place = model
        if name != UNTRAINED:
            if not (folder / "bank").exists():
                (folder / "bank").symlink_to(bank.resolve())
            recipe = Recipe(name=name, model=model, stage=(replace(VARIANTS[name], save_every=200),))
            place = str(train_model(recipe, folder, ("sieve",)))
        score(place, data, settings(name), out / f"{name}.json")


def score(model: str, data: Path, asked: list[Setting], to: Path) -> None:
    """Answer the questions, unless that is done."""
    if to.exists():
        return
    with progress("clips") as on_clip:
        runs = evaluate(load(model), read_rows(data), asked, MediaOptions(), GenerateOptions(32), None, on_clip)
    full = within(runs)
    written: dict[str, Any] = {"model": model, "data": str(data), "runs": [plain(run, full, {}) for run in runs]}
    to.write_text(json.dumps(written) + "\n")


if __name__ == "__main__":
    typer.run(main)
