"""A recipe so small that every stage takes seconds, for the tests of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from echoingpixels.train import checkpoint
from echoingpixels.train.run import train_model
from tools.tiny.recipe import Sizes, TinyData, TinyRecipe, TinyStage
from tools.tiny.run import TinyRun

SIZES = Sizes(
    width=48,
    layers=2,
    heads=2,
    kv_heads=2,
    mlp=64,
    sections=(3, 3, 3, 3),
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    audio_width=32,
    audio_layers=1,
    audio_heads=2,
    max_pixels=56 * 56,
)
ENCODERS = TinyStage("encoders", "encoders", steps=3, batch=3, moments=1, save_every=2)
FULL = TinyStage("full", "answers", steps=3, batch=2, share=(1.0, 0.4), save_every=2)
DISTIL = TinyStage("distil", "distil", steps=2, batch=3, layers=1, form="extractive", save_every=2)
SIEVE = TinyStage("sieve", "sieve", steps=3, batch=3, full_every=2, full_batch=2, layers=1, save_every=2)
DATA = TinyData(clips=8, shard=4, valid_clips=4, questions=3)
SMALL = TinyRecipe(name="small", seed=3, sizes=SIZES, data=DATA, stage=(ENCODERS, FULL, SIEVE))


def recipe(*stages: TinyStage, **changes: Any) -> TinyRecipe:
    """SMALL with other stages."""
    return replace(SMALL, stage=stages, **changes)


def train(wanted: TinyRecipe, out: Path, stages: tuple[str, ...] = ()) -> Path:
    """Train with SyncClips and the encoder tasks."""
    return train_model(wanted, out, stages, TinyRun)


def learned(folder: Path) -> dict[str, Tensor]:
    """The weights in a stage's last checkpoint."""
    saved = checkpoint.last(folder)
    assert saved is not None, folder
    return load_file(saved / checkpoint.WEIGHTS)
