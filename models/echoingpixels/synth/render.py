"""Draws a timeline's frames and mixes its audio."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from . import assets
from .assets import Wave
from .backdrop import Backdrop
from .beds import bed
from .recording import Play, recording
from .timeline import Event, Look, Timeline

MARGIN = 0.12  # of the background beyond the frame, for panning


def frame(timeline: Timeline, t: float) -> NDArray[np.uint8]:
    """The frame at t seconds: (H, W, 3) uint8. A Scene is faster for several frames."""
    return Scene.of(timeline).frame(t)


@dataclass(frozen=True)
class Scene:
    """A timeline with its background and sprites drawn once, at `scale` times its native size."""

    timeline: Timeline
    width: int
    height: int
    background: Image.Image | Backdrop  # an RGB picture larger than the frame by MARGIN, or a busy one
    sprites: tuple[tuple[Event, Image.Image], ...]  # RGBA at their drawn size
    grain: NDArray[np.int16] | None  # (2H, 2W), 8-bit levels

    @classmethod
    def of(cls, timeline: Timeline, scale: float = 1.0) -> Scene:
        """Draw the parts that all frames share."""
        width, height = (max(2, round(side * scale)) for side in (timeline.width, timeline.height))
        rng = np.random.default_rng(timeline.look.seed)
        size = (math.ceil(width * (1 + MARGIN)), math.ceil(height * (1 + MARGIN)))
        picture: Image.Image | Backdrop
        if timeline.surroundings is None:
            picture = _background(rng, timeline.look, size)
        else:
            picture = Backdrop.of(timeline.surroundings, timeline.duration, width, height)
        sprites = tuple((event, _sprite(event, min(width, height))) for event in timeline.of("object"))
        grain = None
        if timeline.look.grain:
            noise = rng.standard_normal((2 * height, 2 * width), dtype=np.float32)
            grain = (noise * timeline.look.grain).astype(np.int16)
        return cls(timeline, width, height, picture, sprites, grain)

    def frame(self, t: float) -> NDArray[np.uint8]:
        """The native frame at t seconds: (H, W, 3) uint8."""
        line, look = self.timeline, self.timeline.look
        number = frame_number(line, t)
        now = number / line.fps
        picture = self._behind(now)
        for event, sprite in self.sprites:
            if round(event.start * line.fps) <= number < round(event.end * line.fps):
                picture.paste(sprite, self._place(event, sprite, now), sprite)
        if look.drift:
            gain = 1 + look.drift * math.sin(2 * math.pi * (now / look.drift_s + look.seed % 97 / 97))
            picture = picture.point([min(255, round(level * gain)) for level in range(256)] * 3)
        pixels = np.array(picture)
        if self.grain is not None:
            y, x = np.random.default_rng([look.seed, number]).integers(0, (self.height, self.width))
            noise = self.grain[y : y + self.height, x : x + self.width, None]  # (H, W, 1)
            pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        return pixels

    def _behind(self, now: float) -> Image.Image:
        """The picture behind the objects."""
        if isinstance(self.background, Backdrop):
            return self.background.frame(now)
        rooms = (self.background.width - self.width, self.background.height - self.height)
        left, top = (round(room / 2 * (1 + pan * (now / self.timeline.duration - 0.5) * 2))
                     for room, pan in zip(rooms, self.timeline.look.pan, strict=True))  # fmt: skip
        return self.background.crop((left, top, left + self.width, top + self.height))

    def boxes(self, t: float) -> list[tuple[Event, tuple[float, float, float, float]]]:
        """The objects visible at t seconds, each with its box (left, top, right, bottom) in shares of the frame."""
        number = frame_number(self.timeline, t)
        found = []
        for event, sprite in self.sprites:
            if round(event.start * self.timeline.fps) <= number < round(event.end * self.timeline.fps):
                left, top = self._place(event, sprite, number / self.timeline.fps)
                right, bottom = left + sprite.width, top + sprite.height
                found.append((event, (left / self.width, top / self.height, right / self.width, bottom / self.height)))
        return found

    def _place(self, event: Event, sprite: Image.Image, now: float) -> tuple[int, int]:
        """The sprite's top left corner, px: on its path, inside its quadrant."""
        assert event.pose is not None and event.corner is not None, event
        done = (now - event.start) / event.length
        x, y = (a + (b - a) * done for a, b in zip(event.pose.start, event.pose.end, strict=True))
        half_width, half_height = self.width // 2, self.height // 2
        left = x * max(0, half_width - sprite.width) + half_width * ("right" in event.corner)
        top = y * max(0, half_height - sprite.height) + half_height * ("bottom" in event.corner)
        return int(left), int(top)


def frame_number(timeline: Timeline, t: float) -> int:
    """The number of the native frame at t seconds: the last whose timestamp is not after t."""
    return min(timeline.frames - 1, math.floor(t * timeline.fps + 1e-6))


@cache
def _trimmed(name: str) -> Image.Image:
    picture = Image.fromarray(assets.sprite(name))
    return picture.crop(picture.getchannel("A").getbbox())


def _sprite(event: Event, short: int) -> Image.Image:
    """The rotated sprite; its longer side is the pose's share of `short` (px)."""
    pose = event.pose
    assert pose is not None, event
    picture = _trimmed(event.what)
    if pose.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if pose.tilt:
        picture = picture.rotate(pose.tilt, Image.Resampling.BILINEAR, expand=True)
        picture = picture.crop(picture.getchannel("A").getbbox())
    ratio = pose.size * short / max(picture.size)
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    light = ImageEnhance.Brightness(picture.convert("RGB")).enhance(pose.brightness)
    light.putalpha(picture.getchannel("A"))
    return light


def _background(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> Image.Image:
    """An RGB image of `size` px, drawn small and enlarged, since it has no fine detail."""
    if look.background == "black":
        return Image.new("RGB", size)
    colours = rng.uniform(20, 235, (6, 3)) * look.brightness
    small = np.empty((max(8, size[1] // 4), max(8, size[0] // 4), 3), np.float32)
    small[:] = colours[0]
    y, x = (axis / max(axis.max(), 1) - 0.5 for axis in np.mgrid[: small.shape[0], : small.shape[1]])
    angle = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    if look.background == "gradient":
        ramp = np.hypot(x - rng.uniform(-0.5, 0.5), y) if rng.random() < 0.4 else along + 0.5
        small += np.clip(ramp, 0, 1)[..., None] * (colours[1] - colours[0])
    elif look.background == "texture":
        for cells in (4, 9, 20):
            small += (_cloud(rng, cells, small.shape[:2]) - 0.5) * rng.uniform(30, 120)
    elif look.background == "pattern":
        waves = np.sin(along * rng.uniform(15, 80))
        if rng.random() < 0.5:
            waves = waves * np.sin((x * math.sin(angle) - y * math.cos(angle)) * rng.uniform(15, 80))
        waves = np.clip(waves * rng.uniform(1, 4), -1, 1)[..., None]  # (H, W, 1)
        small += waves * (colours[1] - colours[0]) * rng.uniform(0.1, 0.4)
    elif look.background == "noise":
        small += rng.normal(0, rng.uniform(8, 35), small.shape)
    picture = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8))
    if look.background == "shapes":
        picture = _shapes(rng, picture, colours)
    return picture.resize(size, Image.Resampling.BILINEAR)


def _cloud(rng: np.random.Generator, cells: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(H, W, 3) smooth noise in 0–1 from a grid of `cells` x `cells`."""
    seeds = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
    return np.asarray(seeds.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float32) / np.float32(255)


def _shapes(rng: np.random.Generator, picture: Image.Image, colours: NDArray[np.float64]) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 14))):
        x, y = rng.uniform(-0.1, 1, 2) * picture.size
        wide, high = rng.uniform(0.05, 0.5, 2) * picture.size
        colour = tuple(int(min(255, level)) for level in colours[int(rng.integers(1, 6))])
        box = (float(x), float(y), float(x + wide), float(y + high))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 6))))


def waveform(
    timeline: Timeline, rate: int, play: Play | None = None, hiss: Callable[[Wave], Wave] | None = None
) -> Wave | None:
    """The clip's audio: (S,) float32 mono in [-1, 1] at `rate` Hz, or None without an audio track.

    `play` renders an event in place of its recording, `hiss` changes the noise floor of unit power; both for training.
    """
    track = timeline.track
    if track is None:
        return None
    noise = _noise(timeline, rate)
    mix = (noise if hiss is None else hiss(noise)) * _level(track.level - track.snr)
    if track.bed is not None:
        mix += bed(track.bed, len(mix), rate) * _level(track.level - track.bed.below)
    for event in timeline.events:
        if event.kind == "object":
            continue
        sound = (play or recording)(event, rate)
        first = round(event.start * rate)
        sound = sound[: len(mix) - first]
        power = float(np.sqrt(np.mean(np.square(sound)))) or 1.0
        mix[first : first + len(sound)] += sound * (_level(track.level + event.gain) / power)
    mix /= np.float32(max(1.0, float(np.abs(mix).max()) / 0.95))
    return mix


def _level(db: float) -> np.float32:
    return np.float32(10 ** (db / 20))


def _noise(timeline: Timeline, rate: int) -> NDArray[np.float32]:
    """(S,) float32 noise of unit power in the track's colour."""
    track = timeline.track
    assert track is not None, timeline
    samples = round(timeline.duration * rate)
    rng = np.random.default_rng(track.seed)
    noise = rng.standard_normal(samples, dtype=np.float32)
    if track.noise == "hum":
        t = np.arange(samples, dtype=np.float32) / np.float32(rate)
        mains = 2 * math.pi * (50 if track.seed % 2 else 60)
        noise *= np.float32(0.1)
        for harmonic in (1, 2, 3, 5):
            noise += np.sin(np.float32(mains * harmonic) * t) / np.float32(harmonic)
    elif track.noise != "white":
        noise = _coloured(noise, rate, exponent=1.0 if track.noise == "pink" else 2.0)
    noise /= np.float32(np.sqrt(np.mean(np.square(noise))))
    return noise


def _coloured(noise: NDArray[np.float32], rate: int, exponent: float) -> NDArray[np.float32]:
    """White noise with a power spectrum of 1 / f ** exponent, flat under 60 Hz."""
    padded = 1 << (len(noise) - 1).bit_length()
    hertz = np.arange(padded // 2 + 1, dtype=np.float32) * np.float32(rate / padded)
    spectrum = np.fft.rfft(noise, padded) * np.maximum(hertz, 60) ** np.float32(-exponent / 2)
    return np.fft.irfft(spectrum, padded)[: len(noise)].astype(np.float32)
