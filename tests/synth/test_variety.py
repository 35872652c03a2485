"""Varied sounds have the length of their event, depend on the seed alone, and differ from the recording."""

from __future__ import annotations

import numpy as np
import pytest

from echoingpixels.synth import assets
from echoingpixels.synth.plan import plan
from echoingpixels.synth.render import Scene, recording, waveform
from echoingpixels.synth.timeline import Event
from tools.tiny.sample import sample, soundtrack
from tools.tiny.variety import hissing, played

RATE = 16_000


def event(what: str, seconds: float = 1.0) -> Event:
    return Event(what, "word" if what in assets.WORDS else "sound", 0.5, 0.5 + seconds, take=1)


@pytest.mark.parametrize("what", [*assets.SOUNDS, "seven"])
def test_a_varied_sound_has_the_length_of_its_event_and_is_audible(what: str) -> None:
    play = played(np.random.default_rng(1))
    made = [play(event(what, 0.6), RATE) for _ in range(12)]
    assert {len(sound) for sound in made} == {round(0.6 * RATE)}
    assert all(np.isfinite(sound).all() and float(np.abs(sound).max()) > 1e-3 for sound in made)
    different = {sound.tobytes() for sound in made}
    assert len(different) > 4


def test_some_events_are_not_varied() -> None:
    play, plain = played(np.random.default_rng(2)), recording(event("bell"), RATE)
    same = sum(np.array_equal(play(event("bell"), RATE), plain) for _ in range(60))
    assert 5 < same < 35


def test_the_same_seed_plays_the_same() -> None:
    timeline = next(t for t in (plan(5, i) for i in range(20)) if t.of("sound"))
    first, second, other = (soundtrack(timeline, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first is not None and second is not None and other is not None
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    plain = waveform(timeline, RATE)
    assert plain is not None and len(plain) == len(first)


def test_a_noise_floor_has_unit_power_whatever_its_spectrum() -> None:
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(4 * RATE, dtype=np.float32)
    kept = 0
    for _ in range(40):
        made = hissing(rng, noise, RATE)
        assert made.dtype == np.float32 and len(made) == len(noise)
        assert float(np.sqrt(np.mean(np.square(made)))) == pytest.approx(1.0, abs=0.05)
        kept += made is noise
    assert 3 < kept < 25


def test_a_sample_shows_the_native_frame_at_or_before_each_time() -> None:
    for index in range(6):
        line, frames, times, audio = sample(4, index, fps=2.0, max_side=160)
        assert len(frames) == len(times) == int(np.ceil(line.duration * 2 - 1e-6)) and frames.dtype == np.uint8
        wanted = np.arange(len(times)) / 2
        assert np.all(times <= wanted + 1e-6) and np.all(wanted - times < 1 / line.fps)
        assert max(frames.shape[1:3]) <= 160 and (audio is None) == (line.track is None)
        scene = Scene.of(line, min(1.0, 160 / max(line.width, line.height)))
        assert np.abs(frames[0].astype(int) - scene.frame(0.0)).mean() < 25


def test_a_sample_is_repeatable() -> None:
    index = next(index for index in range(9) if plan(4, index).regime == "balanced")
    first, again = sample(4, index), sample(4, index)
    assert first[0] == again[0] and np.array_equal(first[1], again[1]) and np.array_equal(first[2], again[2])
    assert first[3] is not None and again[3] is not None and np.array_equal(first[3], again[3])
