"""Draws the events and the format of a clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .surroundings import ABOVE_BED, BED_GAIN, Surroundings, draw_surroundings
from .takes import RATE, SOUNDS, WORDS, Rng, read_wave

REGIMES = ("balanced", "watch", "listen", "busy")
MIXED = ("balanced", "busy")  # of 1 to 4 objects, and of 1 to 4 sounds or words
OBJECTS = {
    "cat": "1f431", "dog": "1f436", "horse": "1f434", "cow": "1f42e", "lion": "1f981", "elephant": "1f418",
    "penguin": "1f427", "fish": "1f41f", "car": "1f697", "bus": "1f68c", "bicycle": "1f6b2",
    "airplane": "2708-fe0f", "rocket": "1f680", "boat": "26f5", "apple": "1f34e", "banana": "1f34c",
    "pizza": "1f355", "cake": "1f382", "house": "1f3e0", "tree": "1f332", "sunflower": "1f33b", "umbrella": "2614",
    "clock": "23f0", "balloon": "1f388",
}  # fmt: skip
CORNERS = ["top left", "top right", "bottom left", "bottom right"]
SIDES = (128, 144, 160, 180, 192, 216, 240, 270, 288, 320, 360)
ASPECTS = (9 / 16, 2 / 3, 3 / 4, 4 / 5, 1.0, 5 / 4, 4 / 3, 3 / 2, 16 / 9)
FRAME_RATES = ("8", "10", "12", "12.5", "15", "16", "20", "24000/1001", "24", "25", "30000/1001", "30")
VIDEO = {"h264": "libx264", "vp9": "libvpx-vp9", "mpeg4": "mpeg4"}
AUDIO = {"aac": "aac", "opus": "libopus", "mp3": "libmp3lame"}


@dataclass
class Event:
    what: str
    start: float
    end: float
    corner: str = ""
    props: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"what": self.what, "start": round(self.start, 4), "end": round(self.end, 4)}
        return {**row, "corner": self.corner} if self.corner else row


@dataclass
class Clip:
    regime: str
    length: float
    rate: Fraction
    size: tuple[int, int]
    objects: list[Event]
    audio: list[Event]  # sounds and words
    props: dict[str, Any]
    around: Surroundings | None = None  # of `busy` clips


def place_objects(count: int, length: float, rate: Fraction, rng: Rng) -> list[Event]:
    names = [str(name) for name in rng.permutation(list(OBJECTS))[:count]]
    while True:
        spans = []
        for _ in names:
            lasts = float(rng.uniform(1.05, max(1.3, length * rng.uniform(0.3, 0.9))))
            start = 0.0 if rng.random() < 0.15 else float(rng.uniform(0, max(0.01, length - lasts)))
            first = int(np.ceil(start * rate))
            spans.append((first, min(int(length * rate), first + int(np.ceil(lasts * rate)))))
        spans.sort()
        times = [(a / float(rate), b / float(rate)) for a, b in spans]
        if any(b - a < 1 for a, b in times) or any(y[0] - x[0] < 0.75 for x, y in pairwise(times)):
            continue
        if all(sum(a <= moment < b for a, b in times) <= 2 for moment, _ in times):
            break
    events: list[Event] = []
    for name, (start, end) in zip(names, times, strict=True):
        taken = [e.corner for e in events if e.end > start]
        events.append(Event(name, start, end, str(rng.choice([c for c in CORNERS if c not in taken]))))
    return events


def place_audio(count: int, length: float, takes: dict[str, Any], folder: Path, rng: Rng) -> list[Event]:
    again, words = rng.random() < 0.35, float(rng.choice([0.15, 0.3, 0.5]))
    names: list[str] = []
    for _ in range(count):
        old = [name for name in names if name in SOUNDS]
        fresh = rng.choice(WORDS) if rng.random() < words else rng.choice(SOUNDS)
        names.append(str(rng.choice(old)) if again and old and rng.random() < 0.6 else str(fresh))
    while True:
        events, longest = [], min(2.0, 1.1 * length / count)
        for name in names:
            file = str(rng.choice([file for file in takes if file.rsplit("_", 1)[0] == name]))
            whole = len(read_wave(folder / file)) / RATE
            lasts = whole
            if name in SOUNDS:
                top = max(0.5, min(whole, longest))
                lasts = top if rng.random() < 0.5 else float(rng.uniform(0.5, top))
            start = float(rng.uniform(0.03, length - lasts - 0.05))
            gain = float(rng.uniform(-5, 4))
            events.append(Event(name, start, start + lasts, props={"take": file, "gain": gain, **takes[file]}))
        events.sort(key=lambda e: e.start)
        pairs = list(pairwise(events))
        if all(y.start >= x.end + 0.05 and y.start - x.start >= 0.75 for x, y in pairs):
            return events


def plan(regime: str, takes: dict[str, Any], folder: Path, rng: Rng) -> Clip:
    rate = Fraction(str(rng.choice(FRAME_RATES)))
    length = int(rng.uniform(4, 10) * rate) / float(rate)
    side, aspect = int(rng.choice(SIDES)), float(rng.choice(ASPECTS))
    long = int(side * max(aspect, 1 / aspect) / 2) * 2
    size = (side, long) if aspect < 1 else (long, side)
    container = str(rng.choice(["mp4", "webm", "mkv"], p=[0.45, 0.2, 0.35]))
    video = "vp9" if container == "webm" else str(rng.choice(list(VIDEO)))
    audio = "opus" if container == "webm" else str(rng.choice(list(AUDIO)))
    props: dict[str, Any] = {
        "container": container, "video": video, "audio": audio,
        "bits_per_pixel": float(np.exp(rng.uniform(-3.5, -1.2))),
        "audio_rate": 48000 if audio == "opus" else int(rng.choice([22050, 44100, 48000])),
        "stereo": bool(rng.random() < 0.5), "audio_kbits": int(rng.choice([32, 48, 64, 96, 128, 160])),
        "noise": str(rng.choice(["white", "pink", "brown", "hum", "crowd", "wind"])), "snr": float(rng.uniform(5, 30)),
        "background": str(rng.choice(["plain", "linear", "radial", "texture", "stripes", "shapes", "static"])),
        "grain": float(rng.choice([0, rng.uniform(1, 14)])), "drift": float(rng.choice([0, rng.uniform(0.03, 0.25)])),
    }  # fmt: skip
    objects: list[Event] = []
    sounds: list[Event] = []
    if regime == "listen":
        props["drift"] = 0.0
        if rng.random() < 0.35:
            props |= {"background": "black", "grain": 0.0}
        if rng.random() < 0.6:
            name = str(rng.choice(list(OBJECTS)))
            objects = [Event(name, 0.0, length, str(rng.choice(CORNERS)))]
    else:
        objects = place_objects(int(rng.integers(1 if regime in MIXED else 2, 5)), length, rate, rng)
    if regime == "watch":
        props |= {"audio": "none"} if rng.random() < 0.35 else {}
    else:
        sounds = place_audio(int(rng.integers(1 if regime in MIXED else 2, 5)), length, takes, folder, rng)
    for event in objects:
        motion = "still" if regime == "listen" else str(rng.choice(["linear", "circle", "sway"]))
        event.props = {"size": float(rng.uniform(0.25, 0.45)), "motion": motion, "fade": bool(rng.random() < 0.25)}
        event.props |= {"flip": bool(rng.random() < 0.25), "turn": float(rng.choice([0, rng.uniform(-12, 12)]))}
    clip = Clip(regime, length, rate, size, objects, sounds, props)
    if regime == "busy":
        surround(clip, rng)
    return clip


def surround(clip: Clip, rng: Rng) -> None:
    """Give a clip surroundings that never rest; every sound and word gets its level above their bed."""
    clip.around = draw_surroundings(round(clip.length * clip.rate), float(clip.rate), rng)
    # The noise floor stays well below the bed, so that the bed decides how hard the events are to hear. A picture that
    # moves everywhere needs more bits than a still one.
    bits = float(np.exp(rng.uniform(-1.8, -0.5)))
    clip.props |= {"background": "field", "snr": float(rng.uniform(18, 30)), "bits_per_pixel": bits}
    for event in clip.audio:
        above = float(rng.uniform(*ABOVE_BED))
        event.props |= {"above_bed": above, "gain": BED_GAIN + above}
