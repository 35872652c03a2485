"""SyncClips' sprites, sounds and spoken words as arrays."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from ..errors import OptionError

Sprite: TypeAlias = npt.NDArray[np.uint8]  # (H, W, 4) RGBA
Wave: TypeAlias = npt.NDArray[np.float32]  # (S,) mono at RATE

RATE = 32_000  # Hz, of every stored sound
SPRITE_PX = 192  # both sides of every stored sprite

OBJECTS: tuple[str, ...] = (
    "cat", "dog", "horse", "cow", "lion", "elephant", "penguin", "fish", "car", "bus", "bicycle", "airplane",
    "rocket", "boat", "apple", "banana", "pizza", "cake", "house", "tree", "sunflower", "umbrella", "clock", "balloon",
)  # fmt: skip
SOUNDS: tuple[str, ...] = (
    "piano", "marimba", "bell", "organ", "guitar", "violin", "harp", "trumpet", "flute", "whistle", "drum",
    "telephone", "helicopter", "applause",
)  # fmt: skip
WORDS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "syncclips"


@cache
def sprite(name: str) -> Sprite:
    """The sprite of an object, (192, 192, 4) uint8 RGBA, read-only; it touches two opposite edges of its square.

    Raises OptionError for a name not in OBJECTS.
    """
    if name not in OBJECTS:
        raise OptionError(f"Unknown object {name!r}.", f"Known objects: {', '.join(OBJECTS)}.")
    with Image.open(FOLDER / "sprites" / f"{name}.webp") as image:
        pixels = np.asarray(image.convert("RGBA"), dtype=np.uint8).copy()  # (H, W, 4)
    pixels.flags.writeable = False
    return pixels


@cache
def takes(name: str) -> tuple[Wave, ...]:
    """Every take of a sound or a word, each (S,) float32 mono at RATE within -1..1, read-only, without leading silence.

    Takes of a sound last 0.5 to 2 s. Takes of a word are ordered by voice, each at three speeds from slow to fast.
    Raises OptionError for a name neither in SOUNDS nor in WORDS.
    """
    if name not in SOUNDS and name not in WORDS:
        raise OptionError(
            f"Unknown sound or word {name!r}.",
            f"Known sounds: {', '.join(SOUNDS)}. Known words: {', '.join(WORDS)}.",
        )
    folder = FOLDER / ("sounds" if name in SOUNDS else "words")
    return tuple(_wave(path) for path in sorted(folder.glob(f"{name}_*.ogg")))


@cache
def voices() -> tuple[Wave, ...]:
    """Sentences without a number by several voices, each (S,) float32 mono at RATE, read-only; some seconds long."""
    return tuple(_wave(path) for path in sorted((FOLDER / "voices").glob("*.ogg")))


def _wave(path: Path) -> Wave:
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE and wave.ndim == 1, f"{path.name}: {rate} Hz, shape {wave.shape}"
    mono: Wave = np.clip(wave, -1.0, 1.0)  # lossy coding can overshoot
    mono.flags.writeable = False
    return mono
