"""An append-only file of JSON lines: each row is on disk before the next is made.

If the program is interrupted, the file contains each row completely or not at all, and a later run can resume.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ..errors import DataError

OPEN = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # Windows would write CR LF for LF
REPLACES_OPEN = os.name != "nt"  # whether the system replaces files that are open


class RowFile:
    """Appends rows to a file, which no other process writes at the same time.

    A subclass defines which rows are valid (`check`), which of them remain when the file is resumed (`stays`), and
    notes these (`found`).
    """

    program = "ep"  # the command that writes such files
    what = "row"  # noun for a row, in error messages
    start_again = ""  # the option that overwrites the file, if any

    def __init__(self, path: Path, resume: bool = False, force: bool = False) -> None:
        """Create a file. `resume`: continue an existing one, without an incomplete last line and the rows that do not
        remain. `force`: empty an existing one when the first row is written. DataError if the file exists, cannot be
        written, or has other content.
        """
        self.path = path
        self._created, self._empty_first = not path.exists(), force
        new = 0 if resume or force else os.O_EXCL
        try:
            self._file = os.open(path, OPEN | new, 0o666)
        except FileExistsError:
            again = f"overwrite it with {self.start_again}, " if self.start_again else ""
            hint = f"Continue it with --resume, {again}or choose another --out."
            raise DataError(f"{path} already exists.", hint) from None
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise DataError(f"{path} is not a regular file.", "Choose another --out.")
            _lock(self._file, path, self.program)
            if not force:
                self._recover()
        except OSError as error:
            os.close(self._file)
            raise self._unwritable(error) from error
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._created and not os.fstat(self._file).st_size:  # no row was written
            with suppress(OSError):
                self.path.unlink()
        os.close(self._file)

    def check(self, row: dict[str, Any]) -> None:
        """ValueError, KeyError or TypeError for an invalid row."""

    def stays(self, row: dict[str, Any]) -> bool:
        """Whether a row remains in the file when it is resumed."""
        return True

    def found(self, row: dict[str, Any]) -> None:
        """Note a row that remains."""

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows and wait until they are on disk. DataError if that fails; earlier rows are kept."""
        data = b"".join(_line(row) for row in rows)
        if self._empty_first:
            os.ftruncate(self._file, 0)
            self._empty_first = False
        size = os.fstat(self._file).st_size
        try:
            _write(self._file, data)
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)  # part of a row may have been written
            raise self._unwritable(error) from error
        try:
            same = os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except OSError:
            same = False
        if not same:
            problem = f"{self.path} is gone: it was moved or deleted, or its folder was, while rows were being written."
            raise DataError(problem, "If it was moved, give its new path with --out and continue with --resume.")

    def _recover(self) -> None:
        """Note the finished rows; afterwards the file contains only these."""
        kept = 0
        for line, row in self._rows():
            if self.stays(row):
                self.found(row)
                kept += len(line)
        if kept != os.fstat(self._file).st_size:
            self._replace(line for line, row in self._rows() if self.stays(row))

    def _rows(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Complete lines and their rows. DataError for a line that is not a valid row."""
        for number, line, row in whole_lines(self.path):
            try:
                if not isinstance(row, dict):
                    raise TypeError
                self.check(row)
            except (ValueError, KeyError, TypeError):
                hint = f"Resume with a file that `{self.program}` wrote, or choose another --out."
                raise DataError(f"{self.path}, line {number} is not a valid {self.what}.", hint) from None
            yield line, row

    def _replace(self, lines: Iterable[bytes]) -> None:
        """Write a new file beside the old one, and replace the old one in one step."""
        beside = self.path.with_name(f".{self.path.name}.new")
        new = os.open(beside, OPEN | os.O_TRUNC, 0o666)
        try:
            _lock(new, self.path, self.program)
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
        hint = "Rows written before are kept. Free disk space, and continue with --resume."
        known = error.errno is not None and os.path.exists(self.path)
        return DataError(f"{self.path} cannot be written: {reason}.", hint if known else "Choose another --out.")


def whole_lines(path: Path) -> Iterator[tuple[int, bytes, Any]]:
    """Number, bytes and value of each complete line; the value is None if the line is not JSON."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # incomplete: the program was stopped while it wrote this line
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield number, line, row


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _lock(file: int, path: Path, program: str) -> None:
    """Lock the file against other writers, if the system supports it."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "Wait for it, or choose another --out."
        raise DataError(f"{path} is being written by another `{program}`.", hint) from None
