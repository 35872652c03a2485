"""Draws the timeline of a SyncClips clip, which follows every rule of docs/syncclips.md by construction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

import numpy as np

from . import assets
from .backdrop import draw_surroundings
from .beds import draw_bed
from .timeline import CORNERS, REGIMES, Event, Kind, Look, Pose, Timeline, Track

BACKGROUNDS = ("plain", "gradient", "texture", "pattern", "shapes", "noise")
NOISES = ("white", "pink", "brown", "hum")
# Constant frame rates in frames per second; the two broadcast rates are exact fractions over 1001.
FRAME_RATES = (8.0, 10.0, 12.0, 15.0, 16.0, 20.0, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0)
# container, video codec, audio codec: combinations that players and muxers support.
FORMATS = (
    ("mp4", "h264", "aac"), ("mp4", "h264", "mp3"), ("mp4", "mpeg4", "aac"), ("mp4", "mpeg4", "mp3"),
    ("webm", "vp9", "opus"), ("webm", "vp9", "opus"), ("mkv", "h264", "opus"), ("mkv", "h264", "aac"),
    ("mkv", "vp9", "mp3"), ("mkv", "vp9", "aac"), ("mkv", "mpeg4", "mp3"), ("mkv", "mpeg4", "opus"),
)  # fmt: skip
MIN_GAP_S = 0.76  # 0.75 s between starts by the rule, and room for rounding
MIN_OBJECT_S = 1.01
MIN_SOUND_S, MAX_SOUND_S = 0.501, 1.999  # 0.5–2 s by the rule, and the same room
SILENCE_S = 0.06  # between the end of one sound or word and the start of the next
ALIGN_TRIES = 12  # audio schedules drawn where sounds should overlap objects
T = TypeVar("T")


def plan(seed: int, index: int, regimes: Sequence[str] = REGIMES) -> Timeline:
    """The clip `index` of the set `seed`: the same pair and regimes always give the same clip.

    Each block of as many indices as there are regimes has each regime once, in random order.
    """
    n = len(regimes)
    regime = regimes[np.random.default_rng([seed, index // n, 3]).permutation(n)[index % n]]
    rng = np.random.default_rng([seed, index])
    fps = _one(rng, FRAME_RATES)
    frames = int(rng.integers(math.ceil(4 * fps), math.floor(10 * fps) + 1))
    width, height = _size(rng)
    objects = _objects(rng, regime, frames, fps)
    container, codec, audio_codec = _one(rng, FORMATS)
    audio = _audio(rng, regime, frames / fps, objects)
    track = None if regime == "watch" and rng.random() < 0.5 else _track(rng, audio_codec)
    events = tuple(sorted((*objects, *audio), key=lambda event: event.start))
    look = _look(rng, regime)
    surroundings = None
    if regime == "busy":
        assert track is not None
        track = replace(track, snr=float(rng.uniform(12, 24)), bed=draw_bed(rng, [event.gain for event in audio]))
        surroundings = draw_surroundings(rng, frames / fps)
    return Timeline(
        seed, index, regime, frames, fps, width, height, container, codec, look, track, events, surroundings
    )


def _one(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _some(rng: np.random.Generator, choices: Sequence[T], n: int) -> list[T]:
    return [choices[int(i)] for i in rng.permutation(len(choices))[:n]]


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height, px: even, short side 128–360, aspect from 9:16 to 16:9."""
    short = 2 * int(rng.integers(64, 181))
    aspect = _one(rng, (16 / 9, 16 / 9, 4 / 3, 3 / 2, 1.0, rng.uniform(1, 16 / 9)))
    long = max(short, 2 * int(short * aspect / 2))
    return (long, short) if rng.random() < 0.65 else (short, long)


def _objects(rng: np.random.Generator, regime: str, frames: int, fps: float) -> list[Event]:
    """Objects on the frame grid: separate starts, at most two at once, never two in one corner at once."""
    if regime == "listen":
        if rng.random() < 0.4:
            return []
        return [_object(rng, _one(rng, assets.OBJECTS), (0, frames), fps, _one(rng, CORNERS), still=True)]
    n = int(rng.integers(2, 5)) if regime == "watch" or rng.random() < 0.85 else 1
    gap, least = math.ceil(MIN_GAP_S * fps), math.ceil(MIN_OBJECT_S * fps)
    slack = frames - least - gap * (n - 1)
    offsets = np.sort(rng.integers(0, slack + 1, n))
    if rng.random() < 0.25:
        offsets[0] = 0
    starts = [int(offset) + gap * i for i, offset in enumerate(offsets)]
    events: list[Event] = []
    for i, (name, start) in enumerate(zip(_some(rng, assets.OBJECTS, n), starts, strict=True)):
        last = min(frames, starts[i + 2] if i + 2 < n else frames)
        end = last if rng.random() < 0.15 else min(last, start + least + int(rng.exponential(1.2) * fps))
        taken = {event.corner for event in events if round(event.end * fps) > start}
        corner = _one(rng, [corner for corner in CORNERS if corner not in taken])
        events.append(_object(rng, name, (start, end), fps, corner, still=False))
    return events


def _object(rng: np.random.Generator, name: str, span: tuple[int, int], fps: float, corner: str, still: bool) -> Event:
    start, end = round(span[0] / fps, 4), round(span[1] / fps, 4)
    place = rng.uniform(0, 1, 2)
    # At most a tenth of the free room a second: slow for every aspect ratio.
    travel = rng.uniform(-0.1, 0.1, 2) * (0.0 if still else end - start)
    to = np.clip(place + travel, 0, 1)
    pose = Pose(
        size=float(rng.uniform(0.26, 0.44)),
        start=(float(place[0]), float(place[1])),
        end=(float(to[0]), float(to[1])),
        tilt=float(rng.uniform(-15, 15)) if rng.random() < 0.6 else 0.0,
        flip=bool(rng.random() < 0.5),
        brightness=float(rng.uniform(0.75, 1.15)),
    )
    return Event(name, "object", start, end, corner, pose=pose)


def _audio(rng: np.random.Generator, regime: str, duration: float, objects: Sequence[Event]) -> list[Event]:
    """Sounds and words without overlap; often placed inside the intervals of objects."""
    if regime == "watch":
        return []
    n = int(rng.integers(2, 5)) if regime == "listen" or rng.random() < 0.85 else 1
    cast = [_recording(rng, kind, what) for kind, what in _cast(rng, n, recur=0.5 if regime == "listen" else 0.2)]
    cast = _fit(rng, cast, duration)
    tries = [_schedule(rng, cast, duration) for _ in range(ALIGN_TRIES if rng.random() < 0.75 else 1)]
    return max(tries, key=lambda events: _worth(events, objects))


def _cast(rng: np.random.Generator, n: int, recur: float) -> list[tuple[Kind, str]]:
    """The names in order: a recurring sound, or different sounds, with one word, several words or none.

    Two or more events always include a sound, so that every clip allows questions.
    """
    recurs, roll = n > 1 and rng.random() < recur, rng.random()
    repeats = _one(rng, (2, 2, 2, 3, 3, 4)) if recurs else 1
    n = max(n, repeats)
    words = 0 if recurs or roll < 0.35 else 1 if roll < 0.8 else int(rng.integers(1, max(2, n)))
    sounds = _some(rng, assets.SOUNDS, n)[: n - words]
    sounds[:repeats] = sounds[:1] * len(sounds[:repeats])
    cast: list[tuple[Kind, str]] = [("sound", what) for what in sounds]
    cast += [("word", what) for what in _some(rng, assets.WORDS, words)]
    return _some(rng, cast, n)


@cache
def _seconds(what: str) -> tuple[float, ...]:
    return tuple(len(take) / assets.RATE for take in assets.takes(what))


def _recording(rng: np.random.Generator, kind: Kind, what: str) -> Event:
    """A whole take at time zero; the pitch is limited so that a sound keeps its least length."""
    take = int(rng.integers(len(_seconds(what))))
    pitch = float(rng.uniform(0.9, 1.1))
    if kind == "sound":
        pitch = min(pitch, _seconds(what)[take] / MIN_SOUND_S)
    length = _seconds(what)[take] / pitch
    return Event(what, kind, 0.0, length, take=take, pitch=pitch, gain=float(rng.uniform(0, 6)))


def _fit(rng: np.random.Generator, cast: list[Event], duration: float) -> list[Event]:
    """Cut the sounds, not the words, so that all events fit into the clip; drop the last while they do not fit."""
    while True:
        sounds = sum(event.kind == "sound" for event in cast)
        words = sum(max(MIN_GAP_S, event.length + SILENCE_S) for event in cast if event.kind == "word")
        room = min(MAX_SOUND_S, (0.98 * duration - words) / max(1, sounds) - SILENCE_S)
        if room >= MIN_GAP_S or (not sounds and words <= duration):
            return [event if event.kind == "word" else _cut(rng, event, room) for event in cast]
        cast = cast[:-1]


def _cut(rng: np.random.Generator, sound: Event, room: float) -> Event:
    most = max(MIN_SOUND_S, min(room, sound.length))
    return replace(sound, end=most if rng.random() < 0.5 else float(rng.uniform(MIN_SOUND_S, most)))


def _schedule(rng: np.random.Generator, cast: Sequence[Event], duration: float) -> list[Event]:
    steps = [max(MIN_GAP_S, event.length + SILENCE_S) for event in cast]
    free = duration - sum(steps[:-1]) - cast[-1].length
    assert free >= 0, (steps, duration)
    offsets = np.sort(rng.uniform(0, 0.999 * free, len(cast)))
    starts = [round(float(offset) + sum(steps[:i]), 4) for i, offset in enumerate(offsets)]
    return [
        replace(event, start=start, end=round(start + event.length, 4))
        for event, start in zip(cast, starts, strict=True)
    ]


def _worth(audio: Sequence[Event], objects: Sequence[Event]) -> int:
    """A measure of the questions a schedule allows: events inside objects, sounds before and after a start."""
    inside = 0
    for event in audio:
        meeting = [thing for thing in objects if thing.start < event.end and event.start < thing.end]
        inside += len(meeting) == 1 and meeting[0].start <= event.start and event.end <= meeting[0].end
    gaps = [event.start - thing.start for event in audio if event.kind == "sound" for thing in objects]
    return inside + 3 * (min(gaps, default=0.0) <= -MIN_GAP_S and max(gaps, default=0.0) >= MIN_GAP_S)


def _track(rng: np.random.Generator, codec: str) -> Track:
    return Track(
        codec=codec,
        rate=48_000 if codec == "opus" else _one(rng, (22_050, 44_100, 48_000)),
        channels=int(rng.integers(1, 3)),
        level=float(rng.uniform(-32, -20)),
        snr=float(rng.uniform(5, 24)),  # gains add up to 6 dB: every event stays within 5–30 dB
        noise=_one(rng, NOISES),
        seed=int(rng.integers(2**31)),
        balance=float(rng.uniform(-0.6, 0.6)),
    )


def _look(rng: np.random.Generator, regime: str) -> Look:
    still = regime == "listen"
    drifts, moves = not still and rng.random() < 0.5, not still and rng.random() < 0.4
    return Look(
        seed=int(rng.integers(2**31)),
        background="black" if still and rng.random() < 0.4 else _one(rng, BACKGROUNDS),
        brightness=float(rng.uniform(0.7, 1.1)),
        drift=float(rng.uniform(0.05, 0.25)) if drifts else 0.0,
        drift_s=float(rng.uniform(3, 12)),
        pan=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))) if moves else (0.0, 0.0),
        grain=float(rng.uniform(2, 12)) if not still and rng.random() < 0.4 else 0.0,
    )
