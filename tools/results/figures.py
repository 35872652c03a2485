"""Figures from measured cells: shares of right answers, their paired differences, and kept tokens by modality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from echoingpixels.datasets.questions import Row
from echoingpixels.evaluation.paired import Difference, Pair, difference

from .plan import Cell
from .store import Answered, Store

UNKNOWN = "–"
Chosen = Callable[[Row], bool]


def every(row: Row) -> bool:
    """All questions."""
    return True


@dataclass(frozen=True)
class Figures:
    """Figures over one or several sets together; None where a cell of one of them is not measured."""

    store: Store

    def share(self, cell: Cell, sets: Sequence[str], chosen: Chosen = every) -> Difference | None:
        """The share of right answers, with its interval by bootstrap over clips, as the difference to none."""
        return self._compared(cell, None, sets, chosen)

    def paired(self, cell: Cell, other: Cell, sets: Sequence[str], chosen: Chosen = every) -> Difference | None:
        """The difference of two cells' shares of right answers, paired by question."""
        return self._compared(cell, other, sets, chosen)

    def audio(self, cell: Cell, sets: Sequence[str], chosen: Chosen = every) -> float | None:
        """The audio share of the kept tokens."""
        found = self._answered(cell, sets)
        if found is None:
            return None
        kept = [(a, v) for row, one, i in _each(found) if chosen(row) for a, v in [(one.audio[i], one.video[i])]]
        return sum(a for a, _ in kept) / max(1, sum(map(sum, kept)))

    def kept(self, cell: Cell, sets: Sequence[str]) -> float | None:
        """The share of audio and video tokens that is kept."""
        full, found = (self._answered(one, sets) for one in (replace(cell, reducer="full", keep=1.0), cell))
        if full is None or found is None:
            return None
        after, before = (sum(sum(one.audio) + sum(one.video) for _, one in part) for part in (found, full))
        return after / max(1, before)

    def lesser(self, cell: Cell, sets: Sequence[str]) -> list[tuple[int, int]]:
        """For each question whose clip has both modalities: the kept tokens of the one with fewer, and of both."""
        full = self._answered(replace(cell, reducer="full", keep=1.0), sets)
        found = self._answered(cell, sets)
        if full is None or found is None:
            return []
        return [
            (min(one.audio[i], one.video[i]), one.audio[i] + one.video[i])
            for (_, one, i), (_, whole, j) in zip(_each(found), _each(full), strict=True)
            if whole.audio[j] and whole.video[j]
        ]

    def number(self, cell: Cell, sets: Sequence[str], chosen: Chosen = every) -> int:
        """The number of questions."""
        return sum(chosen(row) for name in sets for row in self.store.rows(replace(cell, of=name)))

    def _compared(self, cell: Cell, other: Cell | None, sets: Sequence[str], chosen: Chosen) -> Difference | None:
        ours = self._answered(cell, sets)
        theirs = ours if other is None else self._answered(other, sets)
        if ours is None or theirs is None:
            return None
        both = zip(_each(ours), _each(theirs), strict=True)
        return difference(
            Pair(row.clip, one.right[i], False if other is None else two.right[i])
            for (row, one, i), (_, two, _) in both
            if chosen(row)
        )

    def _answered(self, cell: Cell, sets: Sequence[str]) -> list[tuple[list[Row], Answered]] | None:
        found = []
        for name in sets:
            one = replace(cell, of=name)
            answers = self.store.get(one)
            if answers is None:
                return None
            found.append((self.store.rows(one), answers))
        return found


def _each(found: Sequence[tuple[list[Row], Answered]]) -> Iterator[tuple[Row, Answered, int]]:
    for rows, answers in found:
        yield from ((row, answers, i) for i, row in enumerate(rows))


def percent(share: Difference | float | None, digits: int = 1) -> str:
    """A share in %, without the sign."""
    value = share.difference if isinstance(share, Difference) else share
    return UNKNOWN if value is None else f"{100 * value:.{digits}f}"


def of_full(share: Difference | None, full: Difference | None) -> str:
    """A share in %, with the share of the accuracy from all tokens beside it."""
    if share is None or share.difference is None:
        return UNKNOWN
    beside = f" ({share.difference / full.difference:.3f})" if full is not None and full.difference else ""
    return percent(share) + beside


def points(one: Difference | None) -> str:
    """Such as +1.5 (−0.3 to 3.2)."""
    if one is None or one.difference is None:
        return UNKNOWN
    interval = "" if one.interval is None else f" ({_minus(one.interval[0])} to {_minus(one.interval[1])})"
    return f"{_minus(one.difference, '+')}{interval}"


def _minus(share: float, sign: str = "") -> str:
    text = f"{100 * share:{sign}.1f}"
    return text.replace("-0.0", "0.0").replace("+0.0", "0.0").replace("-", "−")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    first, *rest = ("| " + " | ".join(line) + " |" for line in (header, *rows))
    return "\n".join([first, "|---" * len(header) + "|", *rest])
