"""Weights as they are once quantized, kept on disk: the next load reads a quarter as much and quantizes nothing.

Knows nothing about what is done with a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import DataError
from ..storage.atomic import UNFINISHED, filling
from ..storage.lru import Entry, delete, entries_of, shrink
from .hub import on_hub, snapshot

LIMIT = 32 << 30  # bytes
KEY = re.compile(r"[0-9a-f]{32}")
KILLED = re.compile(rf"\..+{re.escape(UNFINISHED)}|tmp\w{{8}}")  # left by a process that was ended while it saved


def kept_at(cache: Path, place: str, quant: str, dtype: str) -> Path:
    """Where in `cache` the quantized weights of the model at `place`, a folder or hub id, are kept, or would be.

    A folder's files are told apart by size and time of change, those from the hub by their commit: weights need not be
    read to be found. What is present counts as used now.
    """
    if on_hub(place):
        mark: list[Any] = [snapshot(place, "config.json").name]
    else:
        files = sorted(path for path in Path(place).resolve().iterdir() if path.is_file())
        mark = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    makers = [version(name) for name in ("bitsandbytes", "transformers")]
    key = hashlib.sha256(json.dumps([place, mark, quant, dtype, makers]).encode()).hexdigest()
    folder = cache / key[:32]
    with suppress(OSError):
        os.utime(folder)
    return folder


def entries(cache: Path) -> list[Entry]:
    """Every model that is kept, the longest unused first."""
    return entries_of(_folders(cache, KEY))


def clear(cache: Path) -> None:
    """Delete all that is kept, and nothing else in the folder. DataError where that is not possible."""
    try:
        for folder in (*_folders(cache, KEY), *_folders(cache, KILLED)):
            delete(folder)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be deleted: {error.strerror}.", "Check the folder.") from error


def keep_quantized(thinker: Any, folder: Path, limit: int = LIMIT) -> None:
    """Keep a quantized thinker; it appears whole or not at all. Where there is no room, the next load quantizes.

    The least recently used models go when all take more than `limit` bytes.
    """
    with suppress(OSError, SafetensorError):
        with filling(folder.parent) as made:
            thinker.save_pretrained(made / folder.name)
        shrink(_folders(folder.parent, KEY), limit, _folders(folder.parent, KILLED))


def _folders(cache: Path, name: re.Pattern[str]) -> Iterator[Path]:
    found = list(cache.iterdir()) if cache.is_dir() else []
    return (path for path in found if name.fullmatch(path.name) and path.is_dir())
