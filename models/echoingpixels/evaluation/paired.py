"""Paired comparison of two runs over the same questions.

Questions about a clip are not independent: the interval of the difference is a cluster bootstrap over clips.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..reducers.setting import Setting
from .evaluate import Outcome, Run

RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Pair:
    """One question in two runs: right, wrong, or None if its clip failed."""

    clip: Hashable
    ours: bool | None
    theirs: bool | None


@dataclass(frozen=True)
class Difference:
    """The difference of two shares of right answers, ours minus theirs, with its 95 % bootstrap interval over clips.

    `questions`: asked in both runs. `failed`: without an answer in either run, and excluded from the rest. `gained`:
    right in ours and wrong in theirs; `lost`: the reverse. The difference is None without questions, the interval with
    fewer than two clips.
    """

    difference: float | None
    interval: tuple[float, float] | None
    questions: int
    failed: int
    clips: int
    gained: int
    lost: int


@dataclass(frozen=True)
class Paired:
    """A run compared with another of the same evaluation (`source` None), or of an earlier evaluation's file.

    `here`: unmatched questions of this run; `there`: unmatched questions of the other.
    """

    source: str | None
    against: Setting
    whole: Difference
    by_kind: dict[str, Difference]
    by_regime: dict[str, Difference]
    here: int = 0
    there: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        by = {"by_kind": self.by_kind, "by_regime": self.by_regime}
        return {
            "baseline": self.source,
            **self.against.as_dict(),
            **asdict(self.whole),
            "unmatched": {"here": self.here, "there": self.there},
            **{name: {key: asdict(one) for key, one in parts.items()} for name, parts in by.items()},
        }


def difference(pairs: Iterable[Pair]) -> Difference:
    """Compare the answers of two runs."""
    known = list(pairs)
    clips: dict[Hashable, list[int]] = {}
    for pair in known:
        if pair.ours is not None and pair.theirs is not None:
            clips.setdefault(pair.clip, []).append(int(pair.ours) - int(pair.theirs))
    changes = [change for of_clip in clips.values() for change in of_clip]
    return Difference(
        difference=sum(changes) / len(changes) if changes else None,
        interval=_interval(list(clips.values())) if len(clips) > 1 else None,
        questions=len(known),
        failed=len(known) - len(changes),
        clips=len(clips),
        gained=changes.count(1),
        lost=changes.count(-1),
    )


def _interval(clips: Sequence[Sequence[int]]) -> tuple[float, float]:
    changed, asked = np.array([sum(one) for one in clips]), np.array([len(one) for one in clips])
    drawn = np.random.default_rng(SEED).integers(len(clips), size=(RESAMPLES, len(clips)))
    low, high = np.percentile(changed[drawn].sum(1) / asked[drawn].sum(1), [2.5, 97.5])
    return float(low), float(high)


def within(runs: Sequence[Run]) -> dict[Setting, Paired]:
    """Each other run compared with the run with all tokens; empty without that run."""
    full = next((run for run in runs if run.setting.reducer == "full"), None)
    if full is None:
        return {}
    theirs = [outcome.right for outcome in full.outcomes]
    others = (run for run in runs if run is not full)
    return {run.setting: paired(list(zip(run.outcomes, theirs, strict=True)), full.setting) for run in others}


def paired(
    both: Sequence[tuple[Outcome, bool | None]],
    against: Setting,
    source: str | None = None,
    here: int = 0,
    there: int = 0,
) -> Paired:
    """Compare a run's outcomes with the other run's results, over all questions, by kind and by regime."""

    def of(chosen: Iterable[tuple[Outcome, bool | None]]) -> Difference:
        return difference(Pair(outcome.row.clip, outcome.right, theirs) for outcome, theirs in chosen)

    def by(key: Callable[[Outcome], str]) -> dict[str, Difference]:
        names = sorted({key(outcome) for outcome, _ in both} - {""})
        return {name: of(pair for pair in both if key(pair[0]) == name) for name in names}

    return Paired(
        source=source,
        against=against,
        whole=of(both),
        by_kind=by(lambda outcome: outcome.row.kind),
        by_regime=by(lambda outcome: outcome.row.regime),
        here=here,
        there=there,
    )
