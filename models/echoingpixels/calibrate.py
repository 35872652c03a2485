"""Calibrating a sieve: how much of its scores' mass reaches which share of the accuracy with all tokens.

Evaluates a grid of masses in one pass over questions with known answers. Knows nothing about printing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from .auto import Table
from .errors import DataError, ModelError
from .evaluate import Outcome, Setting, evaluate
from .media import Reader
from .model import EchoingPixels
from .options import Auto, GenerateOptions, MediaOptions
from .questions import Row
from .sievefolder import SIEVE_CONFIG, SIEVE_WEIGHTS, read_sieve_options

MASSES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SAME = ((0.0, 0.0), (1.0, 1.0))  # a table by which quality is mass


@dataclass(frozen=True)
class Point:
    """One mass: the share of tokens it kept and the share of right answers, and what the fit makes of that.

    `quality`: fitted accuracy as a share of the one with all tokens; above 1 where fewer tokens do better.
    """

    mass: float
    kept_ratio: float
    accuracy: float
    quality: float


@dataclass(frozen=True)
class Calibration:
    """What was measured: accuracy with all tokens, and the points by ascending mass."""

    accuracy: float
    points: tuple[Point, ...]

    @property
    def table(self) -> Table:
        """(quality, mass): of equal qualities the least mass."""
        found: list[tuple[float, float]] = []
        for point in self.points:
            quality = round(point.quality, 4)
            if not found or quality > found[-1][0]:
                found.append((quality, point.mass))
        return tuple(found)


def calibrate(
    model: EchoingPixels,
    rows: Sequence[Row],
    media: MediaOptions | None = None,
    generate: GenerateOptions | None = None,
    masses: Sequence[float] = MASSES,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    reader: Reader | None = None,
) -> Calibration:
    """Answer all rows from all tokens and from as many as each mass takes.

    Give questions that the sieve was not trained on. ModelError without sieve weights, DataError where nothing is right
    with all tokens.
    """
    model.check("cs2")
    settings = [Setting("full", 1.0), *(Setting("cs2", Auto(mass)) for mass in sorted(masses))]
    full, *runs = evaluate(_by_mass(model), rows, settings, media, generate, on_outcome, on_progress, reader)
    if not full.score.accuracy:
        hint = "Calibrate with clips that can be read and questions that the model can answer."
        raise DataError("No question is answered right from all tokens.", hint)
    accuracies = [run.score.accuracy or 0.0 for run in runs]
    return Calibration(
        full.score.accuracy,
        tuple(
            Point(mass, run.tokens.kept_ratio, accuracy, fitted / full.score.accuracy)
            for mass, run, accuracy, fitted in zip(sorted(masses), runs, accuracies, isotonic(accuracies), strict=True)
        ),
    )


def isotonic(values: Sequence[float]) -> list[float]:
    """The ascending values nearest to these, by least squares: the min-max formula of isotonic regression."""
    n = len(values)
    return [max(min(mean(values[a : b + 1]) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]


def _by_mass(model: EchoingPixels) -> EchoingPixels:
    """The same model with a sieve whose table takes a quality for a mass."""
    assert model.sieve is not None
    sieve = copy(model.sieve)
    sieve.options = replace(sieve.options, auto=SAME)
    return EchoingPixels(model.backbone, sieve, model.quant, model.load_s)


def sieve_to_write(folder: Path | None, out: Path | None) -> Path:
    """The sieve's folder, or a copy of it at `out`; asked before the work.

    ModelError where it holds no sieve or there is no folder, DataError where it cannot be written.
    """
    if folder is None:
        hint = "Save it as a folder with echoingpixels.save_sieve, and give that with --sieve."
        raise ModelError("The sieve is inside the model's checkpoint, where no calibration can be written.", hint)
    read_sieve_options(folder)
    target = out or folder
    try:
        if target.resolve() != folder.resolve():
            target.mkdir(parents=True, exist_ok=True)
            for name in (SIEVE_CONFIG, SIEVE_WEIGHTS):
                shutil.copyfile(folder / name, target / name)
        (target / SIEVE_CONFIG).open("ab").close()
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}.", "Choose a folder with --out.") from error
    return target


def write_table(folder: Path, table: Table) -> None:
    """Write a calibration into a sieve's folder."""
    path = folder / SIEVE_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto": table}, indent=1) + "\n")
