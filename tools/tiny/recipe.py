"""The recipe of the bundled tiny model: a new small thinker, SyncClips made on the fly, and stages for its encoders."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar

from pydantic.dataclasses import dataclass

from echoingpixels.errors import DataError
from echoingpixels.train.recipe import PARTS, STRICT, TASKS, Count, Data, Recipe, Stage, one_of


@dataclass(frozen=True, config=STRICT)
class Sizes:
    """A small Qwen2.5-Omni thinker. Widths in channels, `sections` in rotary pairs [T, H, W, T]."""

    width: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    mlp: int = 512
    rope_theta: float = 100_000.0
    sections: tuple[int, ...] = (8, 4, 4, 8)
    vision_width: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    audio_width: int = 128
    audio_layers: int = 4
    audio_heads: int = 4
    max_pixels: int = 25_088


@dataclass(frozen=True, config=STRICT)
class TinyData(Data):
    """Question files, or without `train` SyncClips made on the fly.

    `clips`, `valid_clips` and `shard` (clips in a file) count SyncClips; `questions` is the most kept of each. Of
    `searched` more clips those are added that combine several objects and sounds, about one in ten.
    """

    clips: int = 20_000
    searched: int = 0
    shard: int = 250
    valid_clips: int = 250
    questions: int = 10


@dataclass(frozen=True, config=STRICT)
class TinyStage(Stage):
    """A stage that may train the encoders, from `moments` temporal steps of each clip; `batch` then counts clips."""

    LEARN: ClassVar[dict[str, tuple[str, ...]]] = Stage.LEARN | {"encoders": ("encoders",)}

    task: Annotated[str, one_of("encoders", *TASKS)]
    train: tuple[Annotated[str, one_of("encoders", *PARTS)], ...] = ()
    moments: Count = 3


@dataclass(frozen=True, config=STRICT)
class TinyRecipe(Recipe):
    """The stages of one model. Without `model` a new one of `sizes` is built."""

    name: str = "tiny"
    sizes: Sizes = field(default_factory=Sizes)
    data: TinyData = field(default_factory=TinyData)
    stage: tuple[TinyStage, ...] = ()

    def _check_source(self) -> None:
        tasks = [stage.task for stage in self.stage]
        if "encoders" in tasks:
            alone = tasks.index("encoders") == 0 and tasks.count("encoders") == 1
            if not alone or self.model or self.data.train:
                what = "Task encoders is only for the first stage of a new model on SyncClips."
                raise DataError(what, "Leave that stage out.")
        if self.quant != "none" and self.model is None:
            raise DataError(f"quant = {self.quant!r} needs a pretrained model.", "Set model.")
        if self.data.train is None and any(stage.epochs for stage in self.stage):
            raise DataError("SyncClips have no epochs.", "Give steps, or a question file as train in [data].")
