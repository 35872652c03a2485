"""Two runs over the same questions, compared question by question. Knows nothing about models or files.

Questions of one clip are not independent, so it is the clips that are drawn again (a paired cluster bootstrap).
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
    """One question in two runs: right, wrong, or None where its clip failed."""

    clip: Hashable
    ours: bool | None
    theirs: bool | None


@dataclass(frozen=True)
class Difference:
    """Our share of right answers less theirs, with its 95 % bootstrap interval over clips.

    `questions` were asked in both runs; `failed` of them have no answer in one or the other and count no further.
    `gained`: right here and wrong there; `lost`: the reverse. The difference is None where nothing is left, the
    interval where fewer than two clips are.
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
    """A run beside another one: of this evaluation (`source` None), or of an earlier one's file.

    `here`, `there`: questions of this run without a partner in the other one, and the other way round.
    """

    source: str | None
    against: Setting
    whole: Difference
    by_kind: dict[str, Difference]
    by_regime: dict[str, Difference]
    here: int = 0
    there: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
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
    """Every other run beside the one with all tokens; empty where there is none."""
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
    """A run's outcomes, each with whether the other run was right, compared as a whole and by kind and regime."""

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
