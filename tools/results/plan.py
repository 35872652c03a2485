"""The question sets, reducers and keep ratios that docs/results.md reports: each claim needs a list of cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from echoingpixels.reducer_names import SIEVE_DEFAULT, UNSIEVED  # the defaults with a sieve and without
from echoingpixels.reducers.registry import REDUCERS, register

from ..quotas import Proportional  # the module registers the reducers of the ablations

OUT, RECIPE = Path("runs/results"), Path("recipes/tiny.toml")
KEEPS = (0.2, 0.1, 0.05, 0.02, 0.01)
ONE_TOKEN = 0.001  # of about 340
QUESTIONS = 2000  # of a set, at most
ABLATED, STEPS = 1000, 300  # questions of a set, and steps of training, for the ablations

OWN, FUSED = "own", "fused"  # sieves of the model; other names are variants of ablations
BEST = SIEVE_DEFAULT
SAME_PICK = "maxmin"  # BEST without scores
CHOICES = (
    *("random", "uniform", SAME_PICK, "maxmin-floors", "relevance", "relevance-maxmin"),
    *("diverse", "diverse-saliency", "seats", "fastv", "cs2", BEST),
)
BEST_FIXED = "cs2-maxmin-proportional"
FIXED = {"cs2-proportional": "cs2", "cs2-half": "cs2", BEST_FIXED: BEST}  # budgets by modality, and their joint pools
DEFAULT_KEEPS = (0.5, 0.2, 0.1, 0.05)  # at which the default for models without a sieve is compared
REUSE = 0.1  # the threshold of tiny, whose cost is measured
ABLATIONS = ("two", "one", "four", "causal", "blind", "plain")  # variants of the extractive sieve


@dataclass(frozen=True)
class QuestionSet:
    """SyncClips that `ep synth` makes, three questions a clip; without `clips`, a folder that another tool made."""

    name: str
    clips: int = 0
    seed: int = 0
    regimes: tuple[str, ...] = ()


register(BEST_FIXED, replace(REDUCERS[BEST], budget=Proportional()))

V1 = QuestionSet("v1", 667, 900_001, ("balanced", "watch", "listen"))
BUSY = QuestionSet("busy", 667, 900_002, ("busy",))
OTHERS = (QuestionSet("other-v1"), QuestionSet("other-busy"))
SETS = {one.name: one for one in (V1, BUSY, *OTHERS)}
BOTH = (V1.name, BUSY.name)


@dataclass(frozen=True)
class Cell:
    """One measurement: the first `questions` questions of a set, answered with a sieve, a reducer and a keep ratio."""

    of: str  # the name of a set
    reducer: str
    keep: float
    sieve: str = OWN
    questions: int = QUESTIONS
    reuse: float | None = None  # threshold of `--reuse`

    @property
    def needs_sieve(self) -> bool:
        """Whether its answers depend on the sieve."""
        return REDUCERS[self.reducer].scorer.needs_sieve


def cells(
    sets: Iterable[str], reducers: Iterable[str], keeps: Iterable[float], sieve: str = OWN, questions: int = QUESTIONS
) -> list[Cell]:
    """Every combination, of the reducers that exist."""
    known = [name for name in reducers if name in REDUCERS]
    return [Cell(*one, sieve, questions) for one in product(sets, known, keeps)]


FULL = cells(BOTH, ["full"], [1.0])
CLAIMS: dict[str, list[Cell]] = {
    "accuracy": [*FULL, *cells(BOTH, CHOICES, KEEPS)],
    "default": cells(BOTH, (UNSIEVED, "random", "uniform"), DEFAULT_KEEPS),
    "budgets": cells(BOTH, ("cs2", BEST, *FIXED), KEEPS),
    "ablations": [cell for name in ABLATIONS for cell in cells(BOTH, [BEST], KEEPS[1:4], name, ABLATED)],
    "fused": [*FULL, *cells(BOTH, ("cs2", "cs2-random"), (0.2, 0.05, ONE_TOKEN), FUSED, ABLATED)],
    "reuse": [
        replace(cell, reuse=reuse, questions=ABLATED)
        for cell in [*FULL, *cells(BOTH, (BEST, UNSIEVED), [0.1])]
        for reuse in (None, REUSE)
    ],
    "others": cells([one.name for one in OTHERS], ["full"], [1.0])
    + cells([one.name for one in OTHERS], ("uniform", SAME_PICK, UNSIEVED, "cs2", BEST), (0.2, 0.1, 0.05)),
}


def wanted(only: Iterable[str] = ()) -> Iterator[Cell]:
    """The cells of some claims, or of all, each once."""
    names = tuple(only) or tuple(CLAIMS)
    yield from dict.fromkeys(cell for name in names for cell in CLAIMS[name])
