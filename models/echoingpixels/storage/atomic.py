"""Atomic writes: files and folders that are complete or absent, even if the program is interrupted."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
