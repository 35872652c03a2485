"""The journal of a batch: the rows written so far, and those that a resumed batch skips."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..storage.rowfile import RowFile, whole_lines
from .result import Result


class Done:
    """The finished rows, by key and id.

    A row with an id that is no longer requested counts for any row of its key: its clip was moved or renamed.
    """

    def __init__(self) -> None:
        self._rows: set[tuple[str, str]] = set()
        self._moved: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, key: str, id: str, moved: bool = False) -> None:
        """Count a row as done; `moved`: its id is no longer requested."""
        if moved:
            self._moved[key] += 1
        else:
            self._rows.add((key, id))

    def __len__(self) -> int:
        return len(self._rows) + self._moved.total()

    def take(self, key: str, id: str) -> bool:
        """Whether a row is done; each moved row counts once."""
        if (key, id) in self._rows:
            return True
        with self._lock:
            if self._moved[key] > 0:
                self._moved[key] -= 1
                return True
        return False


class Journal(RowFile):
    """The rows of a batch; `done`: those in the file when it was opened."""

    program, what = "ep batch", "row of a batch"

    def __init__(self, path: Path, ids: Collection[str] = (), resume: bool = False, retry: bool = True) -> None:
        """As RowFile; requested rows that failed are removed, unless `retry` is off."""
        self._ids, self._retry = ids, retry
        self.done = Done()
        super().__init__(path, resume)

    def write(self, results: Sequence[Result]) -> None:
        """Append rows and flush them to disk. DataError if that fails; earlier rows stay."""
        self.append([result.as_dict() for result in results])

    def check(self, row: dict[str, Any]) -> None:
        """ValueError, KeyError or TypeError if a row is not of a batch."""
        _check(row)

    def stays(self, row: dict[str, Any]) -> bool:
        """Whether a resumed journal keeps a row."""
        return not (self._retry and row.get("error") and row["id"] in self._ids)

    def found(self, row: dict[str, Any]) -> None:
        """Count a row that stays."""
        self.done.add(row["key"], row["id"], row["id"] not in self._ids)


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a journal. DataError for any other line."""
    for number, _, row in whole_lines(path):
        try:
            _check(row)
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}, line {number} is no row of a batch.", "Give a file that `ep batch` wrote."
            ) from None
        yield row


def _check(row: dict[str, Any]) -> None:
    if not (isinstance(row["key"], str) and isinstance(row["id"], str)):
        raise ValueError
