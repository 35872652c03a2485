"""Files and folders that appear whole or not at all, whenever the program is ended."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".new"  # ending of the temporary folders, which a killed process leaves


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, which is created if needed.

    When the block ends, each file or folder in it is moved into `folder` in one step and replaces what has its name
    there. After an error nothing is moved. OSError where `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".", suffix=UNFINISHED, dir=folder))
    try:
        yield made
        for new in sorted(made.iterdir()):
            target = folder / new.name
            if target.is_dir():  # a folder cannot be replaced where it holds files
                os.replace(target, made / f"{new.name}.old")
            os.replace(new, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small text file in UTF-8, through to the disk. OSError where that is not possible."""
    with filling(path.parent) as made, (made / path.name).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
