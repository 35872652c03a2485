"""Runs cases one after the other, each to rows of one section: a failed one becomes a row, and the time is bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from echoingpixels.errors import EpError

Row = dict[str, Any]
OK, FAILED, ABSENT = "ok", "failed", "not run"
TIME = "time"
LONGEST = 200  # characters of an error


@dataclass(frozen=True)
class Case:
    """A measurement that gives rows of a section. `absent`: why it is not made, if so."""

    section: str
    name: str
    run: Callable[[], Iterable[Row]]
    absent: str = ""


class Budget:
    """The minutes that a run may begin cases in, from now on."""

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._began, self._most = now, now(), 60 * minutes

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._now() - self._began

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return self.seconds >= self._most


def run(cases: Iterable[Case], budget: Budget) -> Iterator[tuple[str, list[Row]]]:
    """The section and rows of each case, in order; of one that begins too late, a row that says so."""
    for case in cases:
        absent = case.absent or (TIME if budget.spent else "")
        yield case.section, [failure(absent, ABSENT, case.name)] if absent else _rows(case)


def _rows(case: Case) -> list[Row]:
    rows: list[Row] = []
    try:
        rows.extend({"case": case.name, "state": OK, "note": "", **row} for row in case.run())
    except Exception as error:  # the other cases are still worth running
        rows.append(failure(reason(error), FAILED, case.name))
    return rows


def failure(note: str, state: str = FAILED, name: str | None = None) -> Row:
    """A row, or part of one, that is no measurement."""
    return {**({} if name is None else {"case": name}), "state": state, "note": note}


def reason(error: Exception) -> str:
    """An error in one line."""
    text = error.message if isinstance(error, EpError) else f"{type(error).__name__}: {error}"
    return shorten(text.strip().splitlines()[0], LONGEST, placeholder=" …")


def failed(sections: dict[str, list[Row]]) -> int:
    """The number of failed rows."""
    return sum(row["state"] == FAILED for rows in sections.values() for row in rows)
