"""Calibration of a sieve for `--keep auto`: fit the number of tokens that a question needs.

The fit uses the answers to questions with known answers, which are evaluated at a set of keep ratios in one pass.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from ..checkpoints.loading import ASSETS
from ..checkpoints.sieve_io import ADAPTER, SIEVE_CONFIG, SIEVE_WEIGHTS, read_sieve_options
from ..datasets.questions import Row
from ..errors import DataError, ModelError
from ..features.cache import FeatureCache
from ..inputs.token_stream import Selection, TokenStream
from ..media import Reader
from ..model import EchoingPixels
from ..options import AUTO, KEEP, GenerateOptions, Keep, MediaOptions
from ..reducers.adaptive import RATIOS, Enough, features
from ..reducers.regression import fit
from ..reducers.setting import Setting
from ..storage.folders import write_text_atomically
from .evaluate import Outcome, evaluate

# Probability of a right answer per 100 % of the tokens.
PRICES = (8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.1)
FOLDS = 6
MIN_QUESTIONS = 60


@dataclass(frozen=True)
class Point:
    """The share of kept tokens and of right answers at one price, on questions outside the fit.

    `quality`: fitted accuracy relative to all tokens; above 1 where fewer tokens do better.
    """

    price: float
    kept_ratio: float
    accuracy: float
    quality: float


@dataclass(frozen=True)
class Calibration:
    """Accuracy with all tokens, the points by falling price, and the parameters to store with the sieve."""

    accuracy: float
    points: tuple[Point, ...]
    enough: Enough


def calibrate(
    model: EchoingPixels,
    rows: Sequence[Row],
    media: MediaOptions | None = None,
    generate: GenerateOptions | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    reader: Reader | None = None,
    cache: FeatureCache | None = None,
) -> Calibration:
    """Answer all rows with all tokens and at each ratio of RATIOS, and fit the parameters.

    The rows should be questions that the sieve was not trained on. ModelError without sieve weights; DataError if no
    answer is right with all tokens, or too few questions were answered.
    """
    model.check("cs2")
    recorder = _Recorder(model)
    settings = [Setting("full", 1.0), *(Setting("cs2", ratio) for ratio in RATIOS)]
    full, *runs = evaluate(
        recorder, rows, settings, media, generate, on_outcome, on_progress, reader, fails=False, cache=cache
    )
    if not full.score.accuracy:
        hint = "Calibrate with clips that can be read and questions that the model can answer."
        raise DataError("No question is answered right with all tokens.", hint)
    right = [[outcome.right for outcome in run.outcomes if outcome.error is None] for run in runs]
    if len(right[0]) < MIN_QUESTIONS:
        hint = f"Calibrate with at least {MIN_QUESTIONS}."
        raise DataError(f"Too few questions were answered: {len(right[0])}.", hint)
    return learned(torch.cat(recorder.recorded), torch.tensor(right).T, full.score.accuracy)


def learned(known: Tensor, right: Tensor, accuracy: float) -> Calibration:
    """A calibration from question features (N, F) and right answers (N, len(RATIOS)) bool.

    Prices are evaluated by cross-validation over FOLDS parts. `accuracy`: with all tokens.
    """
    chances, everyone = torch.zeros(right.shape, dtype=torch.float64), torch.arange(len(known))
    for i in range(FOLDS):
        out = everyone * FOLDS // len(known) == i  # contiguous: questions about a clip are in one part
        chances[out] = _fitted(known[~out], right[~out]).chances(known[out])
    ratios = torch.tensor(RATIOS, dtype=torch.float64)
    picks = [(chances - price * ratios).argmax(1) for price in PRICES]  # each (N,)
    accuracies = [float(right[everyone, i].double().mean()) for i in picks]
    points = tuple(
        Point(price, float(ratios[i].mean()), found, fitted / accuracy)
        for price, i, found, fitted in zip(PRICES, picks, accuracies, isotonic(accuracies), strict=True)
    )
    return Calibration(accuracy, points, _fitted(known, right, _table(points)))


def _fitted(known: Tensor, right: Tensor, table: tuple[tuple[float, float], ...] = ((1.0, 1.0),)) -> Enough:
    found = fit(known, torch.tensor(RATIOS, dtype=torch.float64).log(), right)
    level, slope = (tuple(float(f"{one:.4g}") for one in part.tolist()) for part in (found.level, found.slope))
    return Enough(level, slope, float(f"{found.curve:.4g}"), table)


def _table(points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    """(quality, price) pairs; for equal qualities, the highest price."""
    found: list[tuple[float, float]] = []
    for point in points:
        quality = round(point.quality, 4)
        if not found or quality > found[-1][0]:
            found.append((quality, point.price))
    return tuple(found)


def isotonic(values: Sequence[float]) -> list[float]:
    """Isotonic regression: the ascending values nearest to these by least squares (min-max formula)."""
    n = len(values)
    return [max(min(mean(values[a : b + 1]) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]


class _Recorder(EchoingPixels):
    """The same model; it records the features of each question when it selects tokens at the smallest ratio."""

    def __init__(self, model: EchoingPixels) -> None:
        super().__init__(model.backbone, model.sieve, model.quant, model.load_s, model.encoders, model.advise)
        self.recorded: list[Tensor] = []

    def select(self, stream: TokenStream, reducer: str = AUTO, keep: Keep = KEEP) -> Selection:
        """Select tokens and record the features."""
        selection = super().select(stream, reducer, keep)
        if reducer == "cs2" and keep == RATIOS[0]:
            assert self.sieve is not None
            scores = torch.zeros_like(stream.time) if selection.scores is None else selection.scores
            self.recorded.append(features(stream, self.sieve.shares(scores, stream.pool)).cpu())
        return selection


def sieve_to_write(folder: Path | None, out: Path | None, force: bool = False) -> Path:
    """The sieve's folder, or a copy of it at `out`; called before the calibration.

    ModelError without a folder, or without a sieve in it. DataError if it cannot be written, if it belongs to the
    installed program and `out` is None, or if `out` contains another sieve and `force` is False.
    """
    if folder is None:
        hint = "Save it to a folder with echoingpixels.save_sieve, and give that folder with --sieve."
        raise ModelError("The sieve is inside the model's checkpoint, to which no calibration can be written.", hint)
    read_sieve_options(folder)
    if out is None and ASSETS.resolve() in folder.resolve().parents:
        hint = "Write a copy with --out FOLDER, and use it with --sieve FOLDER."
        raise DataError("The bundled sieve cannot be changed.", hint)
    target = out or folder
    copies = target.resolve() != folder.resolve()
    if copies and not force and any((target / name).exists() for name in (SIEVE_CONFIG, SIEVE_WEIGHTS)):
        raise DataError(f"{target} already contains a sieve.", "Overwrite it with --force, or choose another --out.")
    try:
        if copies:
            target.mkdir(parents=True, exist_ok=True)
            for name in (SIEVE_CONFIG, SIEVE_WEIGHTS, *(one for one in ADAPTER if (folder / one).exists())):
                shutil.copyfile(folder / name, target / name)
        (target / SIEVE_CONFIG).open("ab").close()
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}.", "Choose a folder with --out.") from error
    return target


def write_calibration(folder: Path, enough: Enough) -> None:
    """Write a calibration into a sieve's folder; sieve.json is replaced atomically."""
    path = folder / SIEVE_CONFIG
    about = {**json.loads(path.read_text(encoding="utf-8")), "auto": asdict(enough)}
    write_text_atomically(path, json.dumps(about, indent=1) + "\n")
