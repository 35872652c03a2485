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
from .recipe import ENCODER_TASKS, TinyRecipe, TinyStage
from .sharpen import FITTED, Sharpened

VALID_SEED = 1_000_003  # of clips that are never trained on
SHARPEN_SEED = 2_000_003  # added to a seed: clips that task encoders did not use


def held_out(recipe: TinyRecipe) -> ClipSet:
    """The clips by which a run is validated."""
    data = recipe.data
    return ClipSet(VALID_SEED, data.valid_clips, data.valid_clips, data.questions)


@dataclass
class TinyRun(Run):
    """A run whose stages may train encoders, and whose clips may be SyncClips. `moved`: the bank may be outdated."""

    recipe: TinyRecipe
    moved: bool = False

    @staticmethod
    def order(recipe: Recipe) -> list[str]:
        """The bank is filled before the first stage that does not train encoders."""
        names = [stage.name for stage in recipe.stage]
        first = next((stage.name for stage in recipe.stage if stage.task not in ENCODER_TASKS), None)
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

    def stage(self, stage: TinyStage, number: int, train: bool) -> None:
        """Fill the bank once more where the encoders have learned since."""
        if stage.task in ENCODER_TASKS:
            self.moved = any(one.task not in ENCODER_TASKS for one in self.recipe.stage[: number - 1])
        elif self.moved and train:
            self.fill()
        super().stage(stage, number, train)

    def workers(self, stage: Stage) -> int:
        """One for encoders: rendering a batch takes as long as its step."""
        return int(stage.task in ENCODER_TASKS)

    def new_options(self) -> dict[str, Any]:
        """A new model's sieve has its rotary sections."""
        return {} if self.recipe.model else {"sections": self.recipe.sizes.sections}

    def fill(self) -> None:
        """Encode the clips that the bank does not hold yet."""
        if self.recipe.data.train is not None:
            return super().fill()
        with world().main_process_first():
            for wanted in self._sets():
                fill(self.backbone, self.out / BANK, wanted)
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

    def parts(self, stage: TinyStage) -> tuple[nn.Module, Loss, Callable[[], None]]:
        """The encoders with their heads, or the parts of any other stage."""
        if stage.task not in ENCODER_TASKS:
            return super().parts(stage)
        thinker = self.backbone.thinker.requires_grad_(False)
        thinker.model.visual.requires_grad_(True)
        batches = self._batches(stage)
        if stage.task == "sharpen":
            sharpened = Sharpened(self.backbone, (batches[i] for i in range(min(FITTED, stage.steps))))
            return sharpened.to(self.backbone.device), sharpened.loss, lambda: None
        thinker.model.audio_tower.requires_grad_(True)
        taught = Taught(self.backbone).to(self.backbone.device)
        return taught, taught.loss, lambda: taught.align(self.backbone, batches[0])

    def inputs(self, stage: TinyStage, number: int) -> tuple[Dataset[Any], Check]:
        """Batches of pictures and sound, or the inputs of any other stage."""
        return (self._batches(stage), dict) if stage.task in ENCODER_TASKS else super().inputs(stage, number)

    def _batches(self, stage: TinyStage) -> Batches:
        """With sound in task encoders; in task sharpen other clips, and pictures alone."""
        both = stage.task == "encoders"
        seed = self.recipe.seed + (0 if both else SHARPEN_SEED)
        return Batches(stage, seed, self.backbone.resolution, sound=both)
