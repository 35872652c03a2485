"""Quantized weights: made while loading and kept on disk for the next load, or published quantized (AWQ, GPTQ).

A kept copy is found by its key; the next load reads a quarter of the bytes and quantizes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors import SafetensorError

from ..errors import DataError, ModelError, is_out_of_memory
from ..storage.folders import UNFINISHED, Entry, delete, entries_of, filling, shrink
from .hub import UNREADABLE, on_hub, snapshot

LIMIT = 32 << 30  # bytes
KEY = re.compile(r"[0-9a-f]{32}")
KILLED = re.compile(rf"\..+{re.escape(UNFINISHED)}|tmp\w{{8}}")  # left by a process that ended while it saved
UNQUANTIZED = ["model.visual", "model.audio_tower", "lm_head"]
PLAIN = "use the plain checkpoint with --quant nf4"
Found = tuple[Any, dict[str, Any]]
"""A thinker, and transformers' information about its weights, such as `missing_keys`."""


def load_quantized(
    read: Callable[..., Found],
    config: Any,
    place: str,
    quant: str,
    dtype: torch.dtype,
    device: torch.device,
    cache: Path | None,
) -> Found:
    """A thinker whose decoder is quantized: from `cache` if a copy is kept there, else made and kept.

    `read(place, **options)` loads from a folder or hub id; `config` is that of `place`.
    ModelError without bitsandbytes.
    """
    quantization = bitsandbytes_config(quant, dtype)
    kept = cache and kept_at(cache, place, quant, f"{dtype} {device.type}")
    if kept and kept.exists():
        try:
            return read(str(kept))
        except UNREADABLE as error:
            if is_out_of_memory(error):  # the files are not damaged
                raise
        rmtree(kept, ignore_errors=True)  # damaged: replaced below
    thinker, found = read(place, config=config, quantization_config=quantization)
    if kept and not found["missing_keys"]:
        keep_quantized(thinker, kept)
    return thinker, found


def bitsandbytes_config(quant: str, dtype: torch.dtype) -> Any:
    """How transformers quantizes the decoder's linear layers. ModelError without bitsandbytes."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        hint = "Install it with `pip install 'echoingpixels[quant]'`."
        raise ModelError(f"{quant} needs the package bitsandbytes.", hint) from error
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about a cast in every product
    if quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=UNQUANTIZED)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=UNQUANTIZED
    )


def kept_at(cache: Path, place: str, quant: str, dtype: str) -> Path:
    """The folder in `cache` for the quantized weights of the model at `place`, a folder or hub id.

    The key has the size and modification time of a folder's files, or a hub model's commit: no weights are read.
    A folder that exists counts as used now.
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


def keep_quantized(thinker: Any, folder: Path, limit: int = LIMIT) -> None:
    """Keep a quantized thinker; the folder appears complete or not at all. Without space, nothing is kept.

    The least recently used models are deleted when all take more than `limit` bytes.
    """
    with suppress(OSError, SafetensorError):
        with filling(folder.parent) as made:
            thinker.save_pretrained(made / folder.name)
        shrink(_folders(folder.parent, KEY), limit, _folders(folder.parent, KILLED))


def entries(cache: Path) -> list[Entry]:
    """Every kept model, the least recently used first."""
    return entries_of(_folders(cache, KEY))


def clear(cache: Path) -> None:
    """Delete all kept models, and nothing else in the folder. DataError if that is not possible."""
    try:
        for folder in (*_folders(cache, KEY), *_folders(cache, KILLED)):
            delete(folder)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be deleted: {error.strerror}.", "Check the folder.") from error


def _folders(cache: Path, name: re.Pattern[str]) -> Iterator[Path]:
    found = list(cache.iterdir()) if cache.is_dir() else []
    return (path for path in found if name.fullmatch(path.name) and path.is_dir())


def method_of(config: Any) -> str:
    """The quantization method that a published checkpoint's config names, such as `awq`."""
    return str(dict(config.quantization_config).get("quant_method") or "an unnamed method")


def quantized_twice(name: str, config: Any, quant: str) -> ModelError:
    """The error for `--quant` with a checkpoint that is published quantized."""
    hint = f"Leave out --quant {quant}, or {PLAIN.removesuffix('nf4')}{quant}."
    return ModelError(f"{name} is already quantized ({method_of(config)}).", hint)


def unusable(name: str, config: Any, error: Exception) -> ModelError:
    """The error for a quantized checkpoint that transformers cannot read on this machine."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")
    needs = "Install the package it names, or" if isinstance(error, ImportError) else "Instead,"
    what = f"{name} is already quantized ({method_of(config)}) and could not be loaded: {reason}."
    return ModelError(what, f"{needs} {PLAIN}.")
