"""A training recipe: the model to start from, its data and its stages, read from a TOML file."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, overload

from pydantic import AfterValidator, ConfigDict, Field, GetPydanticSchema, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass
from pydantic_core.core_schema import literal_schema

from ..errors import DataError
from ..options import Quant, check_keep
from ..reducers.cs2 import Form
from .refusal import listed, refusal

Gate = Literal["straight-through", "gumbel", "soft"]
Target = Literal["saliency", "agreed"]
Log = Literal["csv", "tensorboard"]
Chooser = Literal["cs2", "cs2-maxmin"]
Optim = Literal["adamw", "muon"]
Precision = Literal["float32", "bfloat16"]
TooLong = Literal["skip", "cut"]

BANK = "bank"  # the step that encodes the clips
RESERVED = (BANK, "model", "tensorboard")  # names in OUT that no stage may have
NAME = re.compile(r"\w[\w-]*")
STRICT = ConfigDict(strict=True, extra="forbid")


def one_of(*names: str) -> GetPydanticSchema:
    """Accept these names alone. The type stays str, so that a kind of stage outside the library may accept more."""
    return GetPydanticSchema(lambda _, __: literal_schema(list(names)))


TASKS, PARTS = ("answers", "distil", "sieve"), ("decoder", "sieve")
Task = Annotated[str, one_of(*TASKS)]
Part = Annotated[str, one_of(*PARTS)]


def _from_recipe(path: Path, info: ValidationInfo) -> Path:
    """Resolve a path from the folder of the recipe, which is the validation context."""
    return path if info.context is None else info.context / path


Count = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, AfterValidator(check_keep)]
RecipePath = Annotated[Path, AfterValidator(_from_recipe)]


@dataclass(frozen=True, config=STRICT)
class Data:
    """The clips and questions to learn from.

    `train` and `valid` are question files as `ep evaluate` reads, or text files with one question a line, each asked of
    every clip. Their paths are relative to the recipe, as is `media`, the folder of the clips. A question without an
    answer gets the full model's answer of at most `answer_tokens` tokens. Examples longer than `max_length` tokens
    (clip, question and answer) are left out, or the end of the clip is cut off. `fps`, `max_frames`, `max_pixels` and
    `audio` say how files are read. With `bank` the encoder features are kept on disk; without it the encoders run each
    time a clip is drawn.
    """

    train: RecipePath | None = None
    valid: RecipePath | None = None
    media: RecipePath | None = None
    fps: float = 2.0
    max_frames: int = 120
    max_pixels: int | None = None
    audio: bool = True
    max_length: Count | None = None
    too_long: TooLong = "skip"
    answer_tokens: Count = 32
    bank: bool = True


@dataclass(frozen=True, config=STRICT)
class Lora:
    """LoRA adapters in place of the decoder's weights.

    They are merged into the decoder when the stage ends, unless the decoder is quantized.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, config=STRICT)
class Phase:
    """The keep ratios to draw from until a share of the steps is done."""

    until: float
    ratios: tuple[Ratio, ...]


@dataclass(frozen=True, config=STRICT)
class Ask:
    """At most `most` questions of a clip, drawn evenly over `kinds`, or over all kinds if it names none."""

    most: Count = 10
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Stage:
    """One stage. `batch` counts clips in task answers, questions in the other tasks.

    With `epochs` every question is asked once before any is repeated, and `steps` follow from the number of questions
    unless they are given. `precision` is that of the trained weights and their optimizer state; adapters are float32.
    `optimizer` "muon" trains the matrices of layers by Muon, and all other weights by AdamW.

    The learning rate rises over `warm_up` of the steps, is constant until `steady` of them, then falls as a cosine.
    `train` names the parts that learn; all others are frozen. The values of `share` are used in turn, one a step: the
    random share of the audio and video tokens that the decoder receives. Task answers asks questions of each clip as in
    `ask`; `focus` is the exponent of the focal loss.
    In task sieve every `full_every`-th draw is one of task answers with `full_batch` clips, which keeps the accuracy
    without a sieve. The edge of a soft gate narrows from the first `temperature` to the last; `reducer` is the choice
    that it follows, and by which held-out clips are answered. From `layers` on: options of the sieve. An option left
    out keeps the value of the sieve that the stage continues, or the default of SieveOptions.
    """

    LEARN: ClassVar[dict[str, tuple[str, ...]]] = {  # parts that learn, by task, unless `train` names them
        "answers": ("decoder",),
        "distil": ("sieve",),
        "sieve": ("sieve", "decoder"),
    }

    name: str
    task: Task
    steps: int = 0
    epochs: float = 0.0
    batch: Count = 16
    accumulate: Count = 1
    lr: float = 1e-3
    warm_up: float = 0.05
    steady: float = 0.6
    weight_decay: float = 0.01
    optimizer: Optim = "adamw"
    precision: Precision = "float32"
    save_every: Count = 200
    train: tuple[Part, ...] = ()
    lora: Lora | None = None
    share: tuple[Ratio, ...] = (1.0,)
    ask: tuple[Ask, ...] = (Ask(),)
    focus: float = 0.0
    target: Target = "agreed"
    keep: tuple[Phase, ...] = (Phase(1.0, (0.5, 0.2, 0.1, 0.05)),)
    full_every: int = 0
    full_batch: Count = 16
    temperature: tuple[float, ...] = (0.8, 0.1)
    distil_weight: float = 0.0  # weight of the distillation loss beside a soft gate
    reducer: Chooser = "cs2"
    layers: int | None = None
    form: Form | None = None
    sections: tuple[int, ...] | None = None
    tau: float | None = None
    gate: Gate | None = None
    bidirectional: bool | None = None
    question: bool | None = None

    def __post_init__(self) -> None:
        where = f"Stage {self.name!r}"
        if not NAME.fullmatch(self.name) or self.name in RESERVED:
            raise DataError(f"{where} is not a valid name.", f"Use letters and digits, and none of {listed(RESERVED)}.")
        if self.epochs < 0 or (self.epochs and self.task not in ("distil", "sieve")):
            raise DataError(f"{where} has epochs = {self.epochs:g}.", "Only tasks distil and sieve accept epochs.")
        if self.steps < 0 or (self.steps == 0 and not self.epochs):
            raise DataError(f"{where} has steps = {self.steps}.", "Give at least 1, or epochs.")
        if self.focus != 0 and self.focus < 1:
            raise DataError(f"{where} has focus = {self.focus:g}.", "Give 0, or 1 and more.")
        if self.distil_weight < 0 or (self.distil_weight and self.gate != "soft"):
            hint = 'Give 0 or more, and only with gate = "soft".'
            raise DataError(f"{where} has distil_weight = {self.distil_weight:g}.", hint)
        if self.reducer != "cs2" and self.task == "sieve" and self.gate != "soft":
            raise DataError(f"{where} has reducer = {self.reducer!r}.", 'Add gate = "soft": other gates follow cs2.')
        if not self.share or not self.keep or not all(phase.ratios for phase in self.keep):
            raise DataError(f"{where} has an empty list.", "share and keep need at least one ratio.")
        if not self.temperature or min(self.temperature) <= 0:
            raise DataError(f"{where} has temperature = {list(self.temperature)}.", "Give two above 0, as [0.8, 0.1].")
        self._check_parts(where)

    def _check_parts(self, where: str) -> None:
        known = self.LEARN[self.task]
        if set(self.learns) - set(known) or ("sieve" in known) > ("sieve" in self.learns):
            parts = "sieve, or sieve and decoder" if self.task == "sieve" else listed(known)
            raise DataError(f"{where}, task {self.task}, cannot train {listed(self.learns)}.", f"Known: {parts}.")
        if self.lora is not None and "decoder" not in self.learns:
            raise DataError(f"{where} has [stage.lora] and a frozen decoder.", 'Add "decoder" to train.')

    @property
    def learns(self) -> tuple[str, ...]:
        """The parts that learn."""
        return self.train or self.LEARN[self.task]

    def steps_of(self, questions: int, processes: int = 1) -> int:
        """Steps of the stage: as given, or the number that its epochs need for this number of questions."""
        questions_a_step = self.batch * self.accumulate * processes
        return self.steps or max(1, round(self.epochs * questions / questions_a_step))

    def temperature_at(self, step: int) -> float | None:
        """The width of a soft gate at a step (from 0), on standardised scores; None for other gates."""
        if self.gate != "soft":
            return None
        first, last = self.temperature[0], self.temperature[-1]
        return float(first * (last / first) ** (step / self.steps))

    def ratios(self, step: int) -> tuple[float, ...]:
        """The keep ratios to draw from at a step (from 0)."""
        done = step / self.steps
        return next((phase.ratios for phase in self.keep if done < phase.until), self.keep[-1].ratios)


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """The stages of one model, in order. `model` is a known name, a hub id or a folder.

    `quant` quantizes the decoder, which then learns by LoRA alone. With `checkpointing` layers keep only their inputs
    and run twice: less memory, a third more time. `gpus` with `gpu_gb` GB each are the hardware that `--dry-run` plans
    for; a run uses the hardware present.
    """

    name: str = "trained"
    seed: int = 1
    log: Log = "csv"
    model: str | None = None
    quant: Quant = "none"
    checkpointing: bool = False
    gpus: Count = 1
    gpu_gb: float | None = None
    data: Data = field(default_factory=Data)
    stage: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stage]
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"Two stages are named {name!r}.", "Give each its own name.")
        self._check_source()
        for stage in self.stage if self.quant != "none" else ():
            if stage.task not in ("distil", "sieve"):
                raise DataError(f"Stage {stage.name!r}, task {stage.task}, has a quantized model.", "Leave quant out.")
            if "decoder" in stage.learns and stage.lora is None:
                hint = 'Add [stage.lora], or train = ["sieve"].'
                raise DataError(f"Stage {stage.name!r} trains the weights of a quantized decoder.", hint)

    def _check_source(self) -> None:
        """DataError without a model to train or questions to learn from."""
        if self.model is None:
            raise DataError("The recipe names no model.", "Set model to a known name, a hub id or a folder.")
        if self.data.train is None:
            raise DataError("The recipe names no questions.", "Set train in [data] to a question file.")


R = TypeVar("R", bound=Recipe)


@overload
def read_recipe(path: Path) -> Recipe: ...


@overload
def read_recipe(path: Path, kind: type[R]) -> R: ...


def read_recipe(path: Path, kind: type[Recipe] = Recipe) -> Recipe:
    """Read a recipe; DataError names a file that is not one, an unknown key, or a value that is not allowed."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}.", "Check the path."
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is not a recipe: {error}.", "Start from recipes/mine.toml.") from error
    stages = values.get("stage")
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict) and "keep" in stage:
            stage["keep"] = _phases(stage["keep"])
    try:  # strict validation accepts lists as tuples and strings as paths from JSON only
        recipe = TypeAdapter(kind).validate_json(json.dumps(values, default=str), context=path.parent)
    except ValidationError as error:
        raise refusal(path, kind, error) from error
    if not recipe.stage:
        raise DataError(f"{path} has no stage.", "Add a [[stage]]; recipes/mine.toml has two.")
    return recipe


def _phases(keep: Any) -> Any:
    """Tables from [0.5, 0.2], or from pairs [until, ratios]."""
    if not isinstance(keep, list) or not all(isinstance(one, list) and len(one) == 2 for one in keep):
        return [{"until": 1.0, "ratios": keep}]
    return [{"until": until, "ratios": ratios} for until, ratios in keep]
