"""Single weights out of a checkpoint's files, by name; nothing else of it is read. Knows nothing about models."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from .hub import snapshot

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_tensors(place: str, name: re.Pattern[str]) -> dict[str, Tensor]:
    """The weights of a folder or hub id whose whole name fits, each under its pattern's groups joined by a dot.

    OSError, ValueError or SafetensorError for files that cannot be read, ModelError where they cannot be had.
    """
    found: dict[str, Tensor] = {}
    for file, names in files_of(place, name).items():
        with safe_open(file, "pt") as shard:
            for one in names or shard.keys():
                if (parts := name.fullmatch(one)) is not None:
                    found[".".join(part for part in parts.groups() if part)] = shard.get_tensor(one)
    return found


def files_of(place: str, name: re.Pattern[str]) -> dict[Path, list[str]]:
    """The files that hold such weights, each with their names; no names: not known before it is opened."""
    folder = snapshot(place, "config.json", INDEX)
    if not (folder / INDEX).exists():
        return {snapshot(place, WEIGHTS) / WEIGHTS: []}
    files: dict[str, list[str]] = {}
    for one, file in json.loads((folder / INDEX).read_text())["weight_map"].items():
        if name.fullmatch(one):
            files.setdefault(file, []).append(one)
    return {snapshot(place, file) / file: names for file, names in files.items()}
