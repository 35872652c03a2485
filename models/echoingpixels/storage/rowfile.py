"""A JSONL file of rows that only grows: each row is on disk before the next is begun.

Whatever ends the program, each row is in the file whole or not at all, and resuming finds the rows that are done.
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
    """Appends rows to a file that no other process is writing.

    A subclass says which rows are its own (`check`), which of them stay when the file is resumed (`stays`), and notes
    those (`found`).
    """

    program = "ep"  # that writes such files
    what = "row"  # of what
    start_again = ""  # the option that overwrites, if there is one

    def __init__(self, path: Path, resume: bool = False, force: bool = False) -> None:
        """Begin a new file; with `resume` go on with one, without its torn last line and the rows that do not stay;
        with `force` empty one when the first row is written. DataError where it cannot be written or is no such file.
        """
        self.path = path
        self._begun, self._empties = not path.exists(), force
        new = 0 if resume or force else os.O_EXCL
        try:
            self._file = os.open(path, OPEN | new, 0o666)
        except FileExistsError:
            again = f"start again by {self.start_again}, " if self.start_again else ""
            hint = f"Go on with it by --resume, {again}or choose another --out."
            raise DataError(f"{path} is already there.", hint) from None
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
        if self._begun and not os.fstat(self._file).st_size:  # nothing came of it
            with suppress(OSError):
                self.path.unlink()
        os.close(self._file)

    def check(self, row: dict[str, Any]) -> None:
        """ValueError, KeyError or TypeError where a row is none of these."""

    def stays(self, row: dict[str, Any]) -> bool:
        """Whether a row is in the file after resuming."""
        return True

    def found(self, row: dict[str, Any]) -> None:
        """Note a row that stays."""

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows and wait until they are on disk. DataError where that fails; what was written before stays."""
        data = b"".join(_line(row) for row in rows)
        if self._empties:
            os.ftruncate(self._file, 0)
            self._empties = False
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

    def _recover(self) -> None:
        """Note what is done; the file holds these rows alone afterwards."""
        kept = 0
        for line, row in self._rows():
            if self.stays(row):
                self.found(row)
                kept += len(line)
        if kept != os.fstat(self._file).st_size:
            self._replace(line for line, row in self._rows() if self.stays(row))

    def _rows(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Whole lines with what they say. DataError for a line that is no row of these."""
        for number, line, row in whole_lines(self.path):
            try:
                if not isinstance(row, dict):
                    raise TypeError
                self.check(row)
            except (ValueError, KeyError, TypeError):
                hint = f"Resume with a file that `{self.program}` wrote, or choose another --out."
                raise DataError(f"{self.path}, line {number} is no {self.what}.", hint) from None
            yield line, row

    def _replace(self, lines: Iterable[bytes]) -> None:
        """Write a new file beside the old one and put it in its place in one step."""
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
        hint = "Rows written before are safe: make room, and go on with --resume."
        known = error.errno is not None and os.path.exists(self.path)
        return DataError(f"{self.path} cannot be written: {reason}.", hint if known else "Choose another --out.")


def whole_lines(path: Path) -> Iterator[tuple[int, bytes, Any]]:
    """Number, bytes and value of each line that ends; the value is None where it is no JSON."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # torn: the program was ended while it wrote this line
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
    """Keep other processes from writing to the same file; where the system cannot, nothing is done."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "Wait for it, or choose another --out."
        raise DataError(f"{path} is being written by another `{program}`.", hint) from None
