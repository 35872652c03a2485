"""SyncClips' recordings at any rate, pitch and length."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from . import assets
from .assets import Wave
from .timeline import Event

Play = Callable[[Event, int], Wave]  # an event at a rate in Hz

FADE_S = 0.04  # where a take is cut
EDGE_S = 0.004  # at both ends of every sound, against clicks


@lru_cache(maxsize=1024)
def take_at(what: str, take: int, rate: int) -> Wave:
    """A recording at `rate` Hz, resampled by cutting or extending its spectrum: no aliasing, no delay."""
    return resampled(assets.takes(what)[take], rate)


def resampled(source: Wave, rate: int) -> Wave:
    """A wave of assets.RATE at `rate` Hz."""
    if rate == assets.RATE:
        return source
    length = max(1, round(len(source) * rate / assets.RATE))
    padded = 1 << (len(source) - 1).bit_length()
    out = round(padded * rate / assets.RATE)
    spectrum = np.fft.rfft(source, padded)[: out // 2 + 1]
    return (np.fft.irfft(spectrum, out)[:length] * (out / padded)).astype(np.float32)


def recording(event: Event, rate: int) -> Wave:
    """The recording of an event: (S,) float32, faded where the take is cut."""
    return pitched(take_at(event.what, event.take, rate), event.pitch, event.length, rate)


def pitched(source: Wave, pitch: float, seconds: float, rate: int) -> Wave:
    """A take at `pitch` times its speed for `seconds`: (S,) float32, faded where it is cut, then silent."""
    samples = max(1, round(seconds * rate))
    at = np.arange(samples, dtype=np.float32) * np.float32(pitch)
    places = np.arange(len(source), dtype=np.float32)
    sound = np.asarray(np.interp(at, places, source, right=0.0), np.float32)
    cut = samples * pitch < len(source) - 2
    for edge, fade_s in ((sound, EDGE_S), (sound[::-1], FADE_S if cut else EDGE_S)):
        fade = min(samples, round(fade_s * rate))
        edge[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
    return sound
