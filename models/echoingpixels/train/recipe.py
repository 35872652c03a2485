"""A training recipe: the model to start from, its data and its stages.

Knows nothing about files, nor how a stage is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError
from ..options import Quant, check_keep
from ..reducers.cs2 import Form

Task = Literal["towers", "answers", "distil", "sieve", "views", "sharpen"]
Part = Literal["towers", "decoder", "sieve"]
Gate = Literal["straight-through", "gumbel", "soft"]
Target = Literal["saliency", "agreed"]
Log = Literal["csv", "tensorboard"]
Precision = Literal["float32", "bfloat16"]
TooLong = Literal["skip", "cut"]

LEARN: dict[str, tuple[Part, ...]] = {  # by task, where a stage does not say it
    "towers": ("towers",),
    "answers": ("decoder",),
    "distil": ("sieve",),
    "sieve": ("sieve", "decoder"),
    "views": ("towers",),
    "sharpen": ("towers",),
}
BANK = "bank"  # the stage that fills the cache of the towers' outputs
TAKEN = (BANK, "model", "tensorboard")  # names in OUT that no stage may have
NAME = re.compile(r"\w[\w-]*")


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Data:
    """What is learned from: SyncClips made on the fly, or with `train`, questions about one's own clips.

    `train` and `valid` are files as `ep evaluate` reads, or plain questions, one a line, each asked of every clip; they
    are found from the recipe's folder, as is `media`, the folder of their clips, if not their own. A question without
    an answer gets the full model's own, of at most `answer_tokens`. What is longer than `max_length` tokens, clip,
    question and answer, is left out, or the clip's end is cut off. `clips`, `valid_clips` and `shard` count SyncClips
    clips, `questions` is the most kept of each; `searched` more are looked through for those that join sight and sound,
    about every tenth. The others say how files are read. `bank` false: the towers run each time a clip is drawn, in
    place of keeping what they make of it on disk.
    """

    clips: int = 20_000
    searched: int = 0
    shard: int = 250
    valid_clips: int = 250
    questions: int = 10
    train: Path | None = None
    valid: Path | None = None
    media: Path | None = None
    fps: float = 2.0
    max_frames: int = 120
    max_pixels: int | None = None
    audio: bool = True
    max_length: int | None = None
    too_long: TooLong = "skip"
    answer_tokens: int = 32
    bank: bool = True

    def __post_init__(self) -> None:
        for name in ("max_length", "answer_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise DataError(f"[data] has {name} = {value}.", "Give at least 1.")


@dataclass(frozen=True)
class Lora:
    """Adapters in place of the decoder's own weights, merged into them when the stage ends, unless it is quantized."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Phase:
    """The keep ratios drawn from until a share of the steps is done."""

    until: float
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Stage:
    """One stage. `batch` counts clips in tasks towers, answers, views and sharpen, else questions.

    With `epochs` every question is asked once before any is asked again, and `steps` follow from it, if not given.
    `precision`: of the weights that learn, and of what the optimizer keeps of them; adapters are float32.

    The rate climbs over `warm_up` of the steps, is full until `steady` of them, then falls as a cosine. `train` names
    the parts that learn; the others are frozen. Step after step, `share` says in turn which random share of the audio
    and video tokens is there in task answers, with at most `questions` and `statements` of each clip, those of kinds in
    `first` before others; with a `focus` an answer counts the less, the surer it is. In task sieve, every `full_every`
    steps comes one of task answers, of `full_batch` clips, so that the plain path stays as good; a soft gate narrows
    from the first `temperature` to the last. From `layers` on: the sieve's options; one left out is as the sieve
    already is, or as SieveOptions has it.
    """

    name: str
    task: Task
    steps: int = 0
    epochs: float = 0.0
    batch: int = 16
    accumulate: int = 1
    lr: float = 1e-3
    warm_up: float = 0.05
    steady: float = 0.6
    weight_decay: float = 0.01
    precision: Precision = "float32"
    save_every: int = 200
    train: tuple[Part, ...] = ()
    lora: Lora | None = None
    moments: int = 3  # temporal steps drawn from each clip in tasks towers, views and sharpen
    share: tuple[float, ...] = (1.0,)
    questions: int = 10
    first: tuple[str, ...] = ()  # kinds: those learned last
    statements: int = 30
    focus: float = 0.0  # of task answers
    target: Target = "agreed"  # of task distil
    keep: tuple[Phase, ...] = (Phase(1.0, (0.5, 0.2, 0.1, 0.05)),)
    full_every: int = 0
    full_batch: int = 16
    temperature: tuple[float, ...] = (0.8, 0.1)
    distil_weight: float = 0.0  # of the loss of task distil beside a soft gate's
    layers: int | None = None
    form: Form | None = None
    sections: tuple[int, ...] | None = None
    tau: float | None = None
    gate: Gate | None = None
    bidirectional: bool | None = None
    question: bool | None = None

    def __post_init__(self) -> None:
        where = f"Stage {self.name!r}"
        if not NAME.fullmatch(self.name) or self.name in TAKEN:
            raise DataError(f"{where} cannot have that name.", f"Use letters and digits, and none of {listed(TAKEN)}.")
        if self.epochs < 0 or (self.epochs and self.task not in ("distil", "sieve")):
            raise DataError(f"{where} has epochs = {self.epochs:g}.", "Tasks distil and sieve take some, others steps.")
        if self.steps < 0 or (self.steps == 0 and not self.epochs):
            raise DataError(f"{where} has steps = {self.steps}.", "Give at least 1, or epochs.")
        for name in ("batch", "accumulate", "save_every", "full_batch", "moments"):
            if getattr(self, name) < 1:
                raise DataError(f"{where} has {name} = {getattr(self, name)}.", "Give at least 1.")
        if self.focus != 0 and self.focus < 1:
            raise DataError(f"{where} has focus = {self.focus:g}.", "Give 0, or 1 and more.")
        if self.distil_weight < 0 or (self.distil_weight and self.gate != "soft"):
            raise DataError(
                f"{where} has distil_weight = {self.distil_weight:g}.", 'It is for gate = "soft"; give 0 or more.'
            )
        if not self.learns:
            raise DataError(f"{where} trains nothing.", "Name a part in train.")
        if set(self.learns) - set(LEARN[self.task]) or ("sieve" in LEARN[self.task]) > ("sieve" in self.learns):
            raise DataError(
                f"{where}, task {self.task}, cannot train {listed(self.learns)}.", f"Known: {self._parts()}."
            )
        if self.lora is not None and "decoder" not in self.learns:
            raise DataError(f"{where} has [stage.lora] and a frozen decoder.", 'Add "decoder" to train.')
        if not self.share or not self.keep:
            raise DataError(f"{where} has an empty list.", "share and keep need at least one ratio.")
        if not self.temperature or min(self.temperature) <= 0:
            raise DataError(f"{where} has temperature = {list(self.temperature)}.", "Give two above 0, as [0.8, 0.1].")
        for ratio in (*self.share, *(ratio for phase in self.keep for ratio in phase.ratios)):
            check_keep(ratio)

    def temperature_at(self, step: int) -> float | None:
        """A soft gate's width at step `step`, counted from 0, on the standardised scores; None for the other gates."""
        if self.gate != "soft":
            return None
        first, last = self.temperature[0], self.temperature[-1]
        return float(first * (last / first) ** (step / self.steps))

    def steps_of(self, questions: int, processes: int = 1) -> int:
        """Steps of the stage: as given, or as its epochs take over so many questions."""
        a_step = self.batch * self.accumulate * processes
        return self.steps or max(1, round(self.epochs * questions / a_step))

    @property
    def learns(self) -> tuple[Part, ...]:
        """The parts that learn."""
        return self.train or LEARN[self.task]

    def ratios(self, step: int) -> tuple[float, ...]:
        """The keep ratios that step `step`, counted from 0, draws from."""
        past = step / self.steps
        return next((phase.ratios for phase in self.keep if past < phase.until), self.keep[-1].ratios)

    def _parts(self) -> str:
        return "sieve, or sieve and decoder" if self.task == "sieve" else listed(LEARN[self.task])


@dataclass(frozen=True)
class Recipe:
    """The stages of one model, in order. Without `model`, a known name, hub id or folder, one of `sizes` is built.

    `quant`: of the model's decoder, which then learns by LoRA alone. With `checkpointing` layers keep only their inputs
    and run twice: less memory for a third more time. `gpus`, of `gpu_gb` GB each, are what the recipe is planned for:
    a dry run reckons with them, a run takes those that there are.
    """

    name: str = "tiny"
    seed: int = 1
    log: Log = "csv"
    model: str | None = None
    quant: Quant = "none"
    checkpointing: bool = False
    gpus: int = 1
    gpu_gb: float | None = None
    sizes: Sizes = field(default_factory=Sizes)
    data: Data = field(default_factory=Data)
    stage: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stage]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"Two stages are named {twice[0]!r}.", "Give each its own name.")
        tasks = [stage.task for stage in self.stage]
        if "towers" in tasks and (tasks.index("towers") or tasks.count("towers") > 1 or self.model or self.data.train):
            raise DataError(
                "Task towers is only for the first stage of a new model on SyncClips.", "Leave that stage out."
            )
        if "sharpen" in tasks and self.data.train:
            raise DataError("Task sharpen learns from SyncClips alone.", "Leave that stage, or train in [data], out.")
        if self.gpus < 1:
            raise DataError(f"The recipe has gpus = {self.gpus}.", "Give at least 1.")
        if self.quant != "none":
            self._check_quantized()
        if self.data.train is None and any(stage.epochs for stage in self.stage):
            raise DataError("SyncClips have no epochs.", "Give steps, or questions of your own as train in [data].")

    def _check_quantized(self) -> None:
        """DataError for what a quantized decoder cannot do."""
        if self.model is None:
            raise DataError(f"quant = {self.quant!r} is for a model that there is.", "Name one as model.")
        for stage in self.stage:
            if stage.task not in ("distil", "sieve"):
                raise DataError(f"Stage {stage.name!r}, task {stage.task}, has a quantized model.", "Leave quant out.")
            if "decoder" in stage.learns and stage.lora is None:
                hint = 'Add [stage.lora], or train = ["sieve"].'
                raise DataError(f"Stage {stage.name!r} trains the weights of a quantized decoder.", hint)


def listed(names: Any) -> str:
    """Names in a sentence."""
    return ", ".join(map(str, names))
