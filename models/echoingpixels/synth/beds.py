"""The sound of regime `busy` under its events: band-passed noise, a drone of sines, or babble of many voices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import assets
from .assets import Wave
from .recording import pitched, resampled
from .timeline import Bed

BEDS = ("noise", "drone", "babble")
LEAST_BELOW, MOST_BELOW = 3.0, 10.0  # dB under any event


def draw_bed(rng: np.random.Generator, gains: Sequence[float]) -> Bed:
    """A random bed, LEAST_BELOW to MOST_BELOW dB under every event; `gains` are those of the events in dB."""
    low, high = min(gains, default=0.0), max(gains, default=0.0)
    below = rng.uniform(LEAST_BELOW, MOST_BELOW - (high - low))
    return Bed(
        kind=BEDS[int(rng.integers(len(BEDS)))],
        below=float(below - low),
        seed=int(rng.integers(2**31)),
        swell=float(rng.uniform(0.1, 0.5)),
        swell_s=float(rng.uniform(3, 9)),
    )


def bed(about: Bed, samples: int, rate: int) -> Wave:
    """(S,) float32 of unit power whose level swells slowly, at `rate` Hz."""
    rng = np.random.default_rng(about.seed)
    made = {"noise": _band, "drone": _drone, "babble": _babble}[about.kind](rng, samples, rate)
    t = np.arange(samples, dtype=np.float32) / np.float32(rate)
    phase = rng.uniform(0, 2 * math.pi)
    made = made * (
        1 + np.float32(about.swell) * np.sin(2 * np.float32(math.pi / about.swell_s) * t + np.float32(phase))
    )
    return np.asarray(made / np.sqrt(np.mean(np.square(made)) + 1e-12), np.float32)


def _band(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Noise between two frequencies, with soft edges and a tilt: wind, water, traffic."""
    padded = 1 << (samples - 1).bit_length()
    hertz = np.maximum(np.arange(padded // 2 + 1, dtype=np.float32) * np.float32(rate / padded), 20)
    low = float(np.exp(rng.uniform(math.log(40), math.log(2_000))))
    high = min(rate / 2, low * float(np.exp(rng.uniform(math.log(2), math.log(30)))))
    gain = 1 / (1 + (low / hertz) ** 4) / (1 + (hertz / high) ** 4) * hertz ** np.float32(rng.uniform(-0.7, 0.2))
    spectrum = np.fft.rfft(rng.standard_normal(padded, dtype=np.float32)) * gain
    return np.fft.irfft(spectrum, padded)[:samples].astype(np.float32)


def _drone(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Sines, harmonic or not, each with its own slow beat: a motor, a hum, an organ point."""
    t = np.arange(samples, dtype=np.float32) / np.float32(rate)
    base, harmonic = float(np.exp(rng.uniform(math.log(50), math.log(400)))), rng.random() < 0.5
    made = np.zeros(samples, np.float32)
    for number in range(1, int(rng.integers(4, 9))):
        hertz = base * number if harmonic else base * float(rng.uniform(1, 8))
        beat = 1 + np.float32(rng.uniform(0, 0.6)) * np.sin(np.float32(2 * math.pi * rng.uniform(0.1, 2)) * t)
        phase = np.float32(rng.uniform(0, 2 * math.pi))
        made += (
            np.sin(np.float32(2 * math.pi * hertz) * t + phase) * beat * np.float32(rng.uniform(0.2, 1) / number**0.5)
        )
    return made


def _babble(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Four to eight voices at once, each speaking sentences without a number from a random place on."""
    voices = assets.voices()
    made = np.zeros(samples, np.float32)
    for _ in range(int(rng.integers(4, 9))):
        spoken = resampled(voices[int(rng.integers(len(voices)))], rate)
        pitch = float(rng.uniform(0.85, 1.2))
        spoken = pitched(spoken, pitch, len(spoken) / rate / pitch, rate)
        first = int(rng.integers(len(spoken)))
        made += np.resize(np.roll(spoken, -first), samples) * np.float32(rng.uniform(0.5, 1))
    return made
