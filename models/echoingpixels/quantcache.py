"""Weights as they are once quantized, kept on disk: the next load reads a quarter as much and quantizes nothing.

Knows nothing about what is done with a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .errors import DataError
from .hub import on_hub, snapshot


def kept_at(cache: Path, place: str, quant: str, dtype: str) -> Path:
    """Where in `cache` the quantized weights of the model at `place`, a folder or hub id, are kept, or would be.

    A folder's files are told apart by size and time of change, those from the hub by their commit: weights need not be
    read to be found.
    """
    if on_hub(place):
        mark: list[Any] = [snapshot(place, "config.json").name]
    else:
        files = sorted(path for path in Path(place).resolve().iterdir() if path.is_file())
        mark = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    makers = [version(name) for name in ("bitsandbytes", "transformers")]
    key = hashlib.sha256(json.dumps([place, mark, quant, dtype, makers]).encode()).hexdigest()
    return cache / key[:32]


def kept_sizes(cache: Path) -> list[int]:
    """Bytes of each model that is kept."""
    folders = [path for path in cache.iterdir() if path.is_dir()] if cache.is_dir() else []
    return [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]


def clear(cache: Path) -> None:
    """Delete all that is kept. DataError where that is not possible."""
    try:
        if cache.is_dir():
            shutil.rmtree(cache)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be deleted: {error.strerror}.", "Check the folder.") from error


def keep_quantized(thinker: Any, folder: Path) -> None:
    """Keep a quantized thinker; it appears whole or not at all. Where there is no room, the next load quantizes."""
    with suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            thinker.save_pretrained(made)
            os.replace(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
