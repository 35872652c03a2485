"""Reads the Trainer's checkpoints of one stage: which is complete, its step, and its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..errors import DataError

STATE = "trainer_state.json"  # the Trainer writes it last
WEIGHTS = "model.safetensors"


def last(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None. Checkpoints that a kill left incomplete are removed."""
    complete = {}
    for path in folder.glob("checkpoint-*"):
        state = _state(path)
        if state is None:
            shutil.rmtree(path)
        else:
            complete[int(state["global_step"])] = path
    return complete[max(complete)] if complete else None


def step_of(path: Path | None) -> int:
    """The step of a checkpoint; 0 without one."""
    state = None if path is None else _state(path)
    return 0 if state is None else int(state["global_step"])


def _state(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
        return state
    except (OSError, ValueError):
        return None


@torch.no_grad()
def read(learner: nn.Module, path: Path) -> None:
    """Load a checkpoint's weights into the module that it was made of; DataError where they do not fit."""
    try:
        learner.load_state_dict(load_file(path / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = "The recipe has changed since: choose another --out, or remove that folder to train the stage again."
        raise DataError(f"{path} does not fit its stage: {reason}", hint) from error
