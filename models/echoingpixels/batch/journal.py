"""The rows written so far: a JSONL file that only grows, on disk before the next row is begun.

Whatever ends the program, each row is there whole or not at all, and `--resume` finds what is done. Knows nothing about
how answers are made.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DataError
from .result import Result

OPEN = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # Windows would write CR LF for LF
REPLACES_OPEN = os.name != "nt"  # whether the system replaces files that are open
NOT_OURS = "Resume with a file that `ep batch` wrote, or choose another --out."


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


class Journal:
    """Appends rows to a file that no other process is writing; `done` is what it held when it was opened."""

    def __init__(self, path: Path, ids: Collection[str] = (), resume: bool = False, retry: bool = True) -> None:
        """Begin a new file, or with `resume` go on with one: a torn last line goes, and so do rows that failed and
        are asked again, unless `retry` is off. DataError where it cannot be written or is no such file."""
        self.path = path
        self._begun = not path.exists()
        try:
            self._file = os.open(path, OPEN | (0 if resume else os.O_EXCL), 0o666)
        except FileExistsError:
            hint = "Go on with it by --resume, or choose another --out."
            raise DataError(f"{path} is already there.", hint) from None
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise DataError(f"{path} is not a regular file.", "Choose another --out.")
            _lock(self._file, path)
            self.done = self._recover(ids, retry)
        except OSError as error:
            os.close(self._file)
            raise self._unwritable(error) from error
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun and not os.fstat(self._file).st_size:  # nothing came of it
            with suppress(OSError):
                self.path.unlink()
        os.close(self._file)

    def write(self, results: Sequence[Result]) -> None:
        """Append rows and wait until they are on disk. DataError where that fails; what was written before stays."""
        data = b"".join(_line(result.as_dict()) for result in results)
        size = os.fstat(self._file).st_size
        try:
            _write(self._file, data)
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)  # part of a row may have fitted
            raise self._unwritable(error) from error
        try:
            there = os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except OSError:
            there = False
        if not there:
            what = f"{self.path} is gone: it was moved or deleted, or its folder was, while rows were being written."
            raise DataError(what, "If it was moved, give its new place to --out and go on with --resume.")

    def _recover(self, ids: Collection[str], retry: bool) -> Done:
        """What is done; the file holds these rows alone afterwards."""

        def stays(row: dict[str, Any]) -> bool:
            return not (retry and row.get("error") and row["id"] in ids)

        done, kept = Done(), 0
        for line, row in _rows(self.path):
            if stays(row):
                done.add(row["key"], row["id"], row["id"] not in ids)
                kept += len(line)
        if kept != os.fstat(self._file).st_size:
            self._replace(line for line, row in _rows(self.path) if stays(row))
        return done

    def _replace(self, lines: Iterable[bytes]) -> None:
        """Write the file anew beside the old one, which it then takes the place of in one step."""
        beside = self.path.with_name(f".{self.path.name}.new")
        new = os.open(beside, OPEN | os.O_TRUNC, 0o666)
        try:
            _lock(new, self.path)
            for line in lines:
                _write(new, line)
            os.fsync(new)
            if REPLACES_OPEN:
                os.replace(beside, self.path)
        except BaseException:
            os.close(new)
            raise
        os.close(self._file)
        self._file = new
        if not REPLACES_OPEN:
            os.close(new)
            os.replace(beside, self.path)
            self._file = os.open(self.path, OPEN, 0o666)

    def _unwritable(self, error: OSError) -> DataError:
        reason = (error.strerror or str(error)).lower()
        hint = "Rows written before are safe: make room, and go on with --resume."
        known = error.errno is not None and os.path.exists(self.path)
        return DataError(f"{self.path} cannot be written: {reason}.", hint if known else "Choose another --out.")


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a journal, one after the other. DataError for a line that is none."""
    return (row for _, row in _rows(path))


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole lines with what they say."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # torn: the program was ended while it wrote this line
            try:
                row = json.loads(line)
                if not (isinstance(row["key"], str) and isinstance(row["id"], str)):
                    raise ValueError
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}, line {number} is no row of a batch.", NOT_OURS) from None
            yield line, row


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _lock(file: int, path: Path) -> None:
    """Keep other processes from writing to the same file; where the system cannot, nothing is done."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "Wait for it, or choose another --out."
        raise DataError(f"{path} is being written by another `ep batch`.", hint) from None
