"""Training of the bundled tiny model: builds it, trains its encoders, and learns from a bank of SyncClips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from echoingpixels.checkpoints.loading import device_of
from echoingpixels.train.examples import Supply
from echoingpixels.train.recipe import BANK, Recipe, Stage
from echoingpixels.train.run import Run
from echoingpixels.train.trainer import Check, Loss, world

from .bank import ClipSet, Reader, fill
from .build import build_backbone
from .encoders import Batches, Taught
from .recipe import TinyRecipe, TinyStage

VALID_SEED = 1_000_003  # of clips that are never trained on


def held_out(recipe: TinyRecipe) -> ClipSet:
    """The clips by which a run is validated."""
    data = recipe.data
    return ClipSet(VALID_SEED, data.valid_clips, data.valid_clips, data.questions)


@dataclass
class TinyRun(Run):
    """A run whose first stage may train the encoders, and whose clips may be SyncClips."""

    recipe: TinyRecipe

    @staticmethod
    def order(recipe: Recipe) -> list[str]:
        """The bank is filled before the first stage that does not train the encoders."""
        names = [stage.name for stage in recipe.stage]
        first = next((stage.name for stage in recipe.stage if stage.task != "encoders"), None)
        if first is not None:
            names.insert(names.index(first), BANK)
        return names

    def start(self) -> None:
        """Load the recipe's model, or build one."""
        recipe = self.recipe
        if recipe.model is not None:
            return super().start()
        torch.manual_seed(recipe.seed)  # weights that no stage has trained yet are in no checkpoint
        self.backbone, self.sieve = build_backbone(recipe.sizes, recipe.name), None
        self.backbone.thinker.to(device_of("auto"))
        self.backbone.train(recipe.checkpointing)
        return None

    def workers(self, stage: Stage) -> int:
        """One for encoders: rendering a batch takes as long as its step."""
        return int(stage.task == "encoders")

    def new_options(self) -> dict[str, Any]:
        """A new model's sieve has its rotary sections."""
        return {} if self.recipe.model else {"sections": self.recipe.sizes.sections}

    def fill(self) -> None:
        """Encode the clips that the bank does not hold yet."""
        if self.recipe.data.train is not None:
            return super().fill()
        for wanted in self._sets():
            fill(self.backbone, self.out / BANK, wanted, world().process_index, world().num_processes)
        world().wait_for_everyone()
        return None

    def _sets(self) -> tuple[ClipSet, ClipSet]:
        """Held-out SyncClips, and those to train on."""
        data = self.recipe.data
        return held_out(self.recipe), ClipSet(self.recipe.seed, data.clips, data.shard, data.questions, data.searched)

    def read_sources(self) -> tuple[Supply, Supply | None]:
        """Question files, or the bank of SyncClips; waits until a process has filled a part of it."""
        if self.recipe.data.train is not None:
            return super().read_sources()
        held, clips = (Reader(self.out / BANK, one.seed, one.names(self.backbone)) for one in self._sets())
        held.draw(np.random.default_rng(0), 1)
        return clips, held

    def parts(self, stage: Stage) -> tuple[nn.Module, Loss, Callable[[], None]]:
        """The encoders with their heads, or the parts of any other stage."""
        if stage.task != "encoders":
            return super().parts(stage)
        thinker = self.backbone.thinker.requires_grad_(False)
        thinker.model.visual.requires_grad_(True)
        thinker.model.audio_tower.requires_grad_(True)
        taught = Taught(self.backbone).to(self.backbone.device)
        return taught, taught.loss, lambda: taught.align(self.backbone, self._batches(stage)[0])

    def inputs(self, stage: Stage, number: int) -> tuple[Dataset[Any], Check]:
        """Batches of pictures and sound, or the inputs of any other stage."""
        return (self._batches(stage), dict) if stage.task == "encoders" else super().inputs(stage, number)

    def _batches(self, stage: Stage) -> Batches:
        assert isinstance(stage, TinyStage)
        return Batches(stage, self.recipe.seed, self.backbone.resolution)
