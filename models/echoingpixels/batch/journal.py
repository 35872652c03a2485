"""The rows of a batch written so far, and which of them need not be answered again.

Knows nothing about how answers are made.
"""

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
    """The rows that need not be answered again, by key and id.

    Rows with an id that is no longer asked for stand for any row of the same key: their clip was moved or renamed.
    """

    def __init__(self) -> None:
        self._rows: set[tuple[str, str]] = set()
        self._moved: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, key: str, id: str, moved: bool = False) -> None:
        """Count a row as done; `moved`: nothing with its id is asked for."""
        if moved:
            self._moved[key] += 1
        else:
            self._rows.add((key, id))

    def __len__(self) -> int:
        return len(self._rows) + self._moved.total()

    def take(self, key: str, id: str) -> bool:
        """Whether a row is done; each row that was moved is taken once."""
        if (key, id) in self._rows:
            return True
        with self._lock:
            if self._moved[key] > 0:
                self._moved[key] -= 1
                return True
        return False


class Journal(RowFile):
    """The rows of a batch; `done` is what the file held when it was opened."""

    program, what = "ep batch", "row of a batch"

    def __init__(self, path: Path, ids: Collection[str] = (), resume: bool = False, retry: bool = True) -> None:
        """As RowFile; rows that failed and are asked again do not stay, unless `retry` is off."""
        self._ids, self._retry = ids, retry
        self.done = Done()
        super().__init__(path, resume)

    def write(self, results: Sequence[Result]) -> None:
        """Append rows and wait until they are on disk. DataError where that fails; what was written before stays."""
        self.append([result.as_dict() for result in results])

    def check(self, row: dict[str, Any]) -> None:
        """ValueError, KeyError or TypeError where a row is none of a batch."""
        _check(row)

    def stays(self, row: dict[str, Any]) -> bool:
        """Whether a row is in the file after resuming."""
        return not (self._retry and row.get("error") and row["id"] in self._ids)

    def found(self, row: dict[str, Any]) -> None:
        """Note a row that stays."""
        self.done.add(row["key"], row["id"], row["id"] not in self._ids)


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a journal, one after the other. DataError for a line that is none."""
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
