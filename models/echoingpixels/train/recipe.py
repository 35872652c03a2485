"""A training recipe: the model to start from, its data and its stages. Read from TOML; unknown keys fail loudly.

Knows nothing about how a stage is run.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import DataError
from ..options import check_keep
from ..sieve import Form

Task = Literal["towers", "answers", "distil", "sieve"]
Part = Literal["towers", "decoder", "sieve"]
Gate = Literal["straight-through", "gumbel", "soft"]
Target = Literal["saliency", "agreed"]
Log = Literal["csv", "tensorboard"]
T = TypeVar("T")

LEARN: dict[str, tuple[Part, ...]] = {  # by task, where a stage does not say it
    "towers": ("towers",),
    "answers": ("decoder",),
    "distil": ("sieve",),
    "sieve": ("sieve", "decoder"),
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

    `train` and `valid` are files as `ep evaluate` reads, found from the recipe's folder; `media`, found so too, is the
    folder of their clips, if not their own. `clips`, `valid_clips`
    and `shard` count SyncClips clips, `questions` is the most kept of each; the others say how files are read.
    """

    clips: int = 20_000
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


@dataclass(frozen=True)
class Lora:
    """Adapters in place of the decoder's own weights, merged into them when the stage ends."""

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
    """One stage. `batch` counts clips where all tokens are kept (tasks towers and answers), else questions.

    The rate climbs over `warm_up` of the steps, is full until `steady` of them, then falls as a cosine. `train` names
    the parts that learn; the others are frozen. Step after step, `share` says in turn which random share of the audio
    and video tokens is there in task answers, with at most `questions` and `statements` of each clip, those of kinds in
    `first` before others. In task sieve, every `full_every` steps comes one of task answers, of
    `full_batch` clips, so that the plain path stays as good; a soft gate narrows from the first `temperature` to the
    last. From `layers` on: the sieve's options; one left out is as
    the sieve already is, or as SieveOptions has it.
    """

    name: str
    task: Task
    steps: int
    batch: int = 16
    accumulate: int = 1
    lr: float = 1e-3
    warm_up: float = 0.05
    steady: float = 0.6
    weight_decay: float = 0.01
    save_every: int = 200
    train: tuple[Part, ...] = ()
    lora: Lora | None = None
    moments: int = 3  # temporal steps drawn from each clip in task towers
    share: tuple[float, ...] = (1.0,)
    questions: int = 10
    first: tuple[str, ...] = ()  # kinds: those learned last
    statements: int = 30
    target: Target = "agreed"  # of task distil
    keep: tuple[Phase, ...] = (Phase(1.0, (0.5, 0.2, 0.1, 0.05)),)
    full_every: int = 0
    full_batch: int = 16
    temperature: tuple[float, ...] = (0.8, 0.1)
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
            raise DataError(f"{where} cannot have that name.", f"Use letters and digits, and none of {_list(TAKEN)}.")
        for name in ("steps", "batch", "accumulate", "save_every", "full_batch", "moments"):
            if getattr(self, name) < 1:
                raise DataError(f"{where} has {name} = {getattr(self, name)}.", "Give at least 1.")
        if not self.learns:
            raise DataError(f"{where} trains nothing.", "Name a part in train.")
        if set(self.learns) - set(LEARN[self.task]) or ("sieve" in LEARN[self.task]) > ("sieve" in self.learns):
            raise DataError(
                f"{where}, task {self.task}, cannot train {_list(self.learns)}.", f"Known: {self._parts()}."
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

    @property
    def learns(self) -> tuple[Part, ...]:
        """The parts that learn."""
        return self.train or LEARN[self.task]

    def ratios(self, step: int) -> tuple[float, ...]:
        """The keep ratios that step `step`, counted from 0, draws from."""
        past = step / self.steps
        return next((phase.ratios for phase in self.keep if past < phase.until), self.keep[-1].ratios)

    def _parts(self) -> str:
        return "sieve, or sieve and decoder" if self.task == "sieve" else _list(LEARN[self.task])


@dataclass(frozen=True)
class Recipe:
    """The stages of one model, in order. Without `model`, a known name, hub id or folder, one of `sizes` is built."""

    name: str = "tiny"
    seed: int = 1
    log: Log = "csv"
    model: str | None = None
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


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; DataError names a file that is not one, or a key that is not known."""
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is no recipe: {error}.", "Start from recipes/tiny.toml.") from error
    recipe = _table(Recipe, values, str(path), path.parent)
    if not recipe.stage:
        raise DataError(f"{path} has no stage.", "Add a [[stage]]; recipes/tiny.toml has several.")
    return recipe


def _table(kind: type[T], values: dict[str, Any], where: str, folder: Path) -> T:
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in values.keys() - known.keys():
        raise DataError(f"{where} has an unknown key {key!r}.", f"Known keys: {', '.join(sorted(known))}.")
    if kind is Stage and "keep" in values:
        values = {**values, "keep": _phases(values["keep"])}
    filled = {key: _value(hints[key], value, key, where, folder) for key, value in values.items()}
    try:
        return kind(**filled)
    except TypeError:
        lacks = [key for key in ("name", "task", "steps", "until", "ratios") if key in known and key not in filled]
        raise DataError(f"{where} lacks {_list(lacks)}.", "A stage needs name, task and steps.") from None


def _value(hint: Any, value: Any, key: str, where: str, folder: Path) -> Any:
    """`value` as the field's type has it, or a DataError."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        (only,) = (one for one in inner if one is not type(None))
        return _value(only, value, key, where, folder)
    if is_dataclass(hint) and isinstance(value, dict):
        return _table(hint, value, f"[{key}] in {where}", folder)  # type: ignore[arg-type]
    if kind is tuple and isinstance(value, list):
        return tuple(_value(inner[0], one, key, where, folder) for one in value)
    if kind is Literal and value in inner:
        return value
    if hint is Path and isinstance(value, str):
        return folder / value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise DataError(f"{where} has {key} = {value!r}.", f"It must be {_wanted(hint)}.")


def _wanted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {_list(get_args(hint))}"
    if get_origin(hint) is tuple:
        return f"a list, each {_wanted(get_args(hint)[0])}"
    return "a table" if is_dataclass(hint) else f"of type {'str' if hint is Path else hint.__name__}"


def _phases(keep: Any) -> Any:
    """Tables from [0.5, 0.2], or from pairs [until, ratios]."""
    if not isinstance(keep, list) or not all(isinstance(one, list) and len(one) == 2 for one in keep):
        return [{"until": 1.0, "ratios": keep}]
    return [{"until": until, "ratios": ratios} for until, ratios in keep]


def _list(names: Any) -> str:
    return ", ".join(map(str, names))
