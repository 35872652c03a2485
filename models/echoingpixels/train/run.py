"""Runs a recipe's stages in order and writes the trained model. Each stage goes on from its last checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import OptionError
from ..loading import save
from ..model import EchoingPixels
from ..sieve import Sieve, SieveOptions
from .answers import VALID_CLIPS, VALID_SEED, train_cs2, train_full
from .bank import fill
from .build import build_backbone
from .recipe import Recipe
from .towers import train_towers

STAGES = ("towers", "bank", "full", "cs2")


def train_model(recipe: Recipe, out: Path, stages: tuple[str, ...] = STAGES) -> Path:
    """Train, resuming from what OUT holds; returns OUT/model, which `load` reads, or OUT where no decoder was trained.

    A stage whose checkpoint is complete is only read. `bank` may run beside `full` in a process of its own, which then
    answers from the clips made so far.
    """
    for stage in stages:
        if stage not in STAGES:
            raise OptionError(f"Unknown stage {stage!r}.", f"Known stages: {', '.join(STAGES)}.")
    torch.manual_seed(recipe.seed)
    backbone, sieve = build_backbone(recipe.sizes, recipe.name), None
    train_towers(backbone, recipe, out)
    if "bank" in stages:
        fill(backbone, out / "bank", VALID_SEED, VALID_CLIPS, VALID_CLIPS, recipe.bank.questions)
        fill(backbone, out / "bank", recipe.seed, recipe.bank.clips, recipe.bank.shard, recipe.bank.questions)
    if "full" not in stages and "cs2" not in stages:
        return out
    train_full(backbone, recipe, out)
    if "cs2" in stages:
        sieve = Sieve(backbone, SieveOptions(recipe.cs2.layers, recipe.cs2.form, recipe.sizes.sections))
        train_cs2(backbone, sieve, recipe, out)
    save(EchoingPixels(backbone, sieve), out / "model")
    return out / "model"
