"""Files and folders that are complete or absent after an interruption, and folders with a size limit."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

UNFINISHED = ".new"  # suffix of temporary folders, which a killed process leaves behind


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, which is created if needed.

    When the block ends, each file or folder in it is moved into `folder` in one step, where it replaces an entry of the
    same name. After an error nothing is moved. OSError if `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".", suffix=UNFINISHED, dir=folder))
    try:
        yield made
        for new in sorted(made.iterdir()):
            target = folder / new.name
            if target.is_dir():  # os.replace cannot overwrite a folder with files
                os.replace(target, made / f"{new.name}.old")
            os.replace(new, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small text file in UTF-8 and sync it to disk. OSError if that fails."""
    with filling(path.parent) as made, (made / path.name).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


STALE = 3600  # s; older temporary folders are deleted


class Entry(NamedTuple):
    """A file, or a folder of files, with its size and the time of its last use, in s since 1970."""

    path: Path
    bytes: int
    used: float


def entries_of(paths: Iterable[Path]) -> list[Entry]:
    """The entries at these paths, least recently used first."""
    found = []
    for path in paths:
        with suppress(OSError):  # another process deleted it
            used = path.stat().st_mtime
            files = list(path.iterdir()) if path.is_dir() else [path]
            found.append(Entry(path, sum(file.stat().st_size for file in files), used))
    return sorted(found, key=lambda entry: entry.used)


def shrink(paths: Iterable[Path], limit: int, unfinished: Iterable[Path] = ()) -> None:
    """Delete the least recently used entries until the rest takes at most `limit` bytes, and stale `unfinished` ones.

    The newest entry is never deleted. Entries that cannot be deleted are left in place.
    """
    entries = entries_of(paths)
    excess = sum(entry.bytes for entry in entries) - limit
    for entry in entries[:-1]:
        if excess <= 0:
            break
        with suppress(OSError):
            delete(entry.path)
        excess -= entry.bytes
    newest = entries[-1].used if entries else 0.0
    for path in unfinished:
        with suppress(OSError):
            if path.stat().st_mtime < newest - STALE:
                delete(path)


def delete(path: Path) -> None:
    """Delete a file or a folder if it exists. OSError if that fails."""
    with suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
