"""Random variation of SyncClips sounds and noise floors, for training.

The benchmark leaves pitch, phrase, voice, timbre and noise open. A model trained on one set of recordings recognises
only these; one trained on varied sounds recognises the sound in other clips too.
"""

from __future__ import annotations

import numpy as np

from echoingpixels.synth import assets
from echoingpixels.synth.assets import Wave
from echoingpixels.synth.recording import Play, pitched, recording, take_at
from echoingpixels.synth.timeline import Event

AS_RECORDED = 0.3  # share of the events that are not varied
MELODIC = ("piano", "marimba", "bell", "organ", "guitar", "violin", "harp", "trumpet", "flute", "whistle")
WORD_SPEED = (0.85, 1.2)
SWELL = 2000  # samples between two levels of a noise that changes
NOTES = 5  # of a phrase, at most


def played(rng: np.random.Generator) -> Play:
    """A function that renders an event with a random take, phrase, voice and timbre."""

    def play(event: Event, rate: int) -> Wave:
        if rng.random() < AS_RECORDED:
            return recording(event, rate)
        sound = _word(rng, event, rate) if event.kind == "word" else _phrase(rng, event, rate)
        return _coloured(rng, sound, rate)

    return play


def hissing(rng: np.random.Generator, noise: Wave, rate: int) -> Wave:
    """The noise floor unchanged, with a random spectrum, or as many voices at once; its level sometimes changes."""
    roll = rng.random()
    if roll < 0.3:
        return noise
    if roll < 0.7:
        noise = _shaped(rng, noise, rate)
    elif roll < 0.85:
        noise = _babble(rng, len(noise), rate)
    if rng.random() < 0.5:
        beats = np.arange(len(noise) // SWELL + 2, dtype=np.float32) * SWELL
        levels = rng.uniform(0.2, 1.6, len(beats)).astype(np.float32)
        noise = noise * np.interp(np.arange(len(noise), dtype=np.float32), beats, levels).astype(np.float32)
    return np.asarray(noise / np.sqrt(np.mean(np.square(noise)) + 1e-12), np.float32)


def _shaped(rng: np.random.Generator, noise: Wave, rate: int) -> Wave:
    """Random gains over ten bands up to half the rate, some of them closed: a crowd, a fan, a distant street."""
    bands = np.geomspace(60, rate / 2, 10)
    gains = rng.uniform(-30, 6, len(bands)) / 20
    low, high = sorted(rng.integers(0, len(bands), 2))
    if rng.random() < 0.5:
        gains[:low] = gains[high + 1 :] = -3.0  # 60 dB down
    padded = 1 << (len(noise) - 1).bit_length()
    hertz = np.maximum(np.arange(padded // 2 + 1) * (rate / padded), 60)
    curve = 10 ** np.interp(np.log(hertz), np.log(bands), gains)
    return np.fft.irfft(np.fft.rfft(noise, padded) * curve, padded)[: len(noise)].astype(np.float32)


def _babble(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Many words reversed and mixed: voices without a recognisable word."""
    mix = np.zeros(samples, np.float32)
    for _ in range(int(rng.integers(20, 60))):
        what = assets.WORDS[int(rng.integers(len(assets.WORDS)))]
        word = take_at(what, int(rng.integers(len(assets.takes(what)))), rate)[::-1]
        first = int(rng.integers(-len(word) + 1, samples))
        part = word[max(0, -first) : samples - first]
        mix[max(0, first) : max(0, first) + len(part)] += part
    return mix


def _phrase(rng: np.random.Generator, event: Event, rate: int) -> Wave:
    """Notes in sequence or at once, each of a random take and pitch; effects vary less in pitch."""
    melodic = event.what in MELODIC
    notes = int(rng.integers(1, NOTES + 1)) if melodic else int(rng.integers(1, 3))
    total = max(1, round(event.length * rate))
    edges = np.sort(np.append(rng.uniform(0, 0.9, notes - 1), 0.0)) * total
    bend = 6.0 if melodic else 2.5  # semitones
    sound = np.zeros(total, np.float32)
    same = int(rng.integers(len(assets.takes(event.what))))
    rings = rng.random() < 0.4  # each note continues under the next
    for i, first in enumerate(edges.astype(int)):
        end = total if rings or i + 1 == notes else int(edges[i + 1])
        take = same if rng.random() < 0.6 else int(rng.integers(len(assets.takes(event.what))))
        for _ in range(2 if melodic and rng.random() < 0.2 else 1):
            pitch = 2 ** (float(rng.uniform(-bend, bend)) / 12)
            note = pitched(take_at(event.what, take, rate), pitch, max(0.03, (end - first) / rate), rate)
            note = note[: total - first]
            sound[first : first + len(note)] += note * np.float32(rng.uniform(0.6, 1.0))
    return sound


def _word(rng: np.random.Generator, event: Event, rate: int) -> Wave:
    """The word by a random voice whose take has about the length of the event."""
    takes = [take_at(event.what, i, rate) for i in range(len(assets.takes(event.what)))]
    speeds = [len(take) / rate / event.length for take in takes]
    fitting = [i for i, speed in enumerate(speeds) if WORD_SPEED[0] <= speed <= WORD_SPEED[1]]
    if not fitting:
        return recording(event, rate)
    chosen = fitting[int(rng.integers(len(fitting)))]
    return pitched(takes[chosen], speeds[chosen], event.length, rate)


def _coloured(rng: np.random.Generator, sound: Wave, rate: int) -> Wave:
    """Brighter or duller: the spectrum is tilted about 1 kHz."""
    padded = 1 << (len(sound) - 1).bit_length()
    hertz = np.maximum(np.arange(padded // 2 + 1, dtype=np.float32) * np.float32(rate / padded), 60)
    tilt = (hertz / 1000) ** np.float32(rng.uniform(-0.4, 0.4))
    return np.fft.irfft(np.fft.rfft(sound, padded) * tilt, padded)[: len(sound)].astype(np.float32)
