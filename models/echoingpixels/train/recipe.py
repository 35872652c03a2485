"""A training recipe: what to build and how long to train it. Read from TOML; unknown keys fail loudly."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ..errors import DataError
from ..sieve import Form

T = TypeVar("T")


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
class Towers:
    """Stage 1: both towers, supervised token by token on the clip's own timeline."""

    steps: int = 2000
    clips: int = 16  # a batch
    moments: int = 3  # temporal steps drawn from each clip
    lr: float = 1e-3


@dataclass(frozen=True)
class Bank:
    """The frozen towers' features of training clips, kept on disk."""

    clips: int = 20_000
    shard: int = 250
    questions: int = 10  # at most, of each clip


@dataclass(frozen=True)
class Full:
    """Stage 2: the decoder on questions with all tokens; a clip's questions share one sequence.

    Step after step, `share` says in turn which random share of the audio and video tokens is there.
    """

    steps: int = 1500
    clips: int = 16
    lr: float = 1e-3
    share: tuple[float, ...] = (1.0, 0.4, 0.4)
    questions: int = 10  # at most, of each clip
    first: tuple[str, ...] = ()  # kinds that are asked before others: those learned last
    statements: int = 30  # at most, of each clip


@dataclass(frozen=True)
class Cs2:
    """Stage 3: encoder, score head and decoder through the straight-through sieve, at mixed keep ratios."""

    steps: int = 800
    questions: int = 32
    lr: float = 4e-4
    layers: int = 2
    form: Form = "fused"
    keep: tuple[float, ...] = (0.5, 0.2, 0.1, 0.05)
    full_every: int = 3  # every so many steps one of stage 2, so that the plain path stays as good


@dataclass(frozen=True)
class Recipe:
    """All stages of one model, and the seed of its training clips."""

    name: str = "tiny"
    seed: int = 1
    save_every: int = 100
    sizes: Sizes = field(default_factory=Sizes)
    towers: Towers = field(default_factory=Towers)
    bank: Bank = field(default_factory=Bank)
    full: Full = field(default_factory=Full)
    cs2: Cs2 = field(default_factory=Cs2)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; DataError names a file that is not one, or a key that is not known."""
    try:
        return _fill(Recipe, tomllib.loads(path.read_text()), str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is no recipe: {error}.", "Start from recipes/tiny.toml.") from error


def _fill(kind: type[T], values: dict[str, Any], where: str) -> T:
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    for key in values.keys() - known:
        raise DataError(f"{where} has an unknown key {key!r}.", f"Known keys: {', '.join(sorted(known))}.")
    filled = {}
    for key, value in values.items():
        hint = hints[key]
        if is_dataclass(hint):
            value = _fill(hint, value, f"[{key}] in {where}")  # type: ignore[arg-type]
        elif hint in (int, float, str) and not isinstance(value, (int, float) if hint is float else hint):
            raise DataError(f"{where} has {key} = {value!r}.", f"It must be of type {hint.__name__}.")
        filled[key] = tuple(value) if isinstance(value, list) else value
    return kind(**filled)
