"""What a model's folder must not hold: anything that would run when it is read. Knows nothing about models."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from ..errors import ModelError

CONFIGS = ("config.json", "tokenizer_config.json")
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_contents(name: str, folder: Path) -> None:
    """ModelError for a folder of a model that would run code when it is read: its own, or what a pickle holds."""
    for file in (folder / config for config in CONFIGS):
        with suppress(OSError, ValueError):  # missing or broken: told when it is read
            about = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(about, dict) and "auto_map" in about:
                raise own_code(name, file.name)
    pickles = sorted(file.name for kind in PICKLES for file in folder.glob(kind))
    if pickles and not any(folder.glob("*.safetensors")):
        hint = "Reading a pickle can run any code: ask for it in safetensors, or convert it where you trust it."
        raise ModelError(f"{name} holds its weights as a pickle ({pickles[0]}).", hint)


def own_code(name: str, file: str) -> ModelError:
    """What to say of a model that brings code."""
    hint = "ep reads weights and settings, and runs no code from a model: take one of the Qwen2.5-Omni family."
    return ModelError(f"{name} wants to run code of its own (auto_map in {file}).", hint)
