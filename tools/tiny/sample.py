"""SyncClips clips in memory, for training: no container and no codec, only a cheap imitation of their losses."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from echoingpixels.synth.plan import plan
from echoingpixels.synth.render import Scene, frame_number, waveform
from echoingpixels.synth.timeline import Timeline

from .variety import hissing, played

SAMPLE_RATE = 16_000
DRAWN = ("balanced", "watch", "listen", "busy", "busy")  # two fifths of the clips are of the hardest regime


def planned(seed: int, index: int) -> Timeline:
    """Clip `index` of the training set `seed`."""
    return plan(seed, index, DRAWN)


def sample(
    seed: int, index: int, fps: float = 2.0, max_side: int | None = 256
) -> tuple[Timeline, NDArray[np.uint8], NDArray[np.float64], NDArray[np.float32] | None]:
    """Clip `index` of the set `seed`, as read at `fps` frames a second.

    Returns the timeline, frames (F, H, W, 3) uint8 no longer than `max_side` px, the native timestamps (F,) of
    those frames in s, and the sound (S,) float32 at 16 kHz or None.
    """
    timeline = planned(seed, index)
    rng = np.random.default_rng([seed, index, 1])
    scene = scene_of(timeline, max_side)
    wanted = np.arange(math.ceil(timeline.duration * fps - 1e-6)) / fps
    times = np.array([frame_number(timeline, float(t)) / timeline.fps for t in wanted])
    quality = int(rng.integers(25, 95))
    frames = np.stack([lossy(scene.frame(float(t)), quality) for t in times])  # (F, H, W, 3)
    return timeline, frames, times, soundtrack(timeline, rng)


def soundtrack(timeline: Timeline, rng: np.random.Generator) -> NDArray[np.float32] | None:
    """The clip's sound, played and coded with random variation: (S,) float32 at 16 kHz, or None."""
    audio = waveform(timeline, SAMPLE_RATE, played(rng), lambda noise: hissing(rng, noise, SAMPLE_RATE))
    if audio is None:
        return None
    return lossy_audio(rng, audio * np.float32(10 ** (-rng.exponential(5) / 20)))  # dB; some clips are faint


def scene_of(timeline: Timeline, max_side: int | None) -> Scene:
    """The clip's pictures, whose longer side has at most `max_side` px."""
    longest = max(timeline.width, timeline.height)
    return Scene.of(timeline, 1.0 if max_side is None else min(1.0, max_side / longest))


def lossy(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 through JPEG, whose blur and blocks resemble those of a video codec."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def lossy_audio(rng: np.random.Generator, audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """(S,) float32 with a random upper band edge in half of the cases, then faint noise and another loudness."""
    if rng.random() < 0.5:
        taps = _low_pass(float(rng.uniform(4_000, 7_800)))
        audio = np.convolve(audio, taps, "same")
    audio = audio * np.float32(rng.uniform(0.7, 1.0))
    hiss = rng.standard_normal(len(audio), dtype=np.float32) * np.float32(10 ** rng.uniform(-4.5, -3))
    return np.asarray(audio + hiss, np.float32)


def _low_pass(edge: float) -> NDArray[np.float32]:
    """(33,) windowed-sinc taps of a low-pass filter at `edge` Hz for 16 kHz."""
    n = np.arange(-16, 17)
    taps = np.sinc(2 * edge / SAMPLE_RATE * n) * np.hamming(33)
    return np.asarray(taps / taps.sum(), np.float32)
