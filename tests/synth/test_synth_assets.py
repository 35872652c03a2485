"""SyncClips' bundled sprites, sounds and words are all there and as promised."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from echoingpixels.errors import OptionError
from echoingpixels.synth.assets import FOLDER, OBJECTS, RATE, SOUNDS, SPRITE_PX, WORDS, sprite, takes

SPEEDS = 3


def test_there_are_24_objects_14_sounds_and_10_words() -> None:
    assert [len(set(names)) for names in (OBJECTS, SOUNDS, WORDS)] == [24, 14, 10]


def test_every_stored_file_belongs_to_a_known_name() -> None:
    assert {path.stem for path in (FOLDER / "sprites").iterdir()} == set(OBJECTS)
    assert {path.stem.rsplit("_", 1)[0] for path in (FOLDER / "sounds").iterdir()} == set(SOUNDS)
    assert {path.stem.rsplit("_", 1)[0] for path in (FOLDER / "words").iterdir()} == set(WORDS)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_sprite_fills_its_square_on_a_transparent_ground(name: str) -> None:
    pixels = sprite(name)
    assert pixels.shape == (SPRITE_PX, SPRITE_PX, 4) and pixels.dtype == np.uint8
    rows, columns = np.nonzero(pixels[..., 3] > 8)
    assert max(np.ptp(rows), np.ptp(columns)) >= SPRITE_PX - 4
    assert 0.2 < (pixels[..., 3] > 128).mean() < 0.95


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_has_ten_takes_of_half_a_second_to_two(name: str) -> None:
    assert 10 <= len(takes(name)) <= 14
    for take in takes(name):
        assert 0.5 <= len(take) / RATE <= 2.0


@pytest.mark.parametrize("name", WORDS)
def test_a_word_is_spoken_by_six_voices_each_faster_take_by_take(name: str) -> None:
    assert len(takes(name)) % SPEEDS == 0 and len(takes(name)) // SPEEDS >= 6
    for first in range(0, len(takes(name)), SPEEDS):
        slow, middle, fast = (len(take) for take in takes(name)[first : first + SPEEDS])
        assert RATE > slow > middle > fast > 0.2 * RATE


@pytest.mark.parametrize("name", SOUNDS + WORDS)
def test_a_take_starts_at_once_and_is_loud_but_not_clipped(name: str) -> None:
    for take in takes(name):
        assert take.dtype == np.float32 and take.ndim == 1
        assert 0.75 < np.abs(take).max() <= 1.0
        assert np.flatnonzero(np.abs(take) > 0.01)[0] < 0.05 * RATE


@pytest.mark.parametrize("name", SOUNDS + WORDS)
def test_no_two_takes_are_the_same(name: str) -> None:
    assert len({take.tobytes() for take in takes(name)}) == len(takes(name))


def test_every_file_is_mono_at_the_one_rate() -> None:
    for path in FOLDER.rglob("*.ogg"):
        facts = soundfile.info(path)
        assert (facts.samplerate, facts.channels) == (RATE, 1), path.name


def test_what_is_cached_cannot_be_changed() -> None:
    with pytest.raises(ValueError):
        sprite("cat")[0, 0, 0] = 1
    with pytest.raises(ValueError):
        takes("bell")[0][0] = 1


@pytest.mark.parametrize("read", [sprite, takes])
def test_an_unknown_name_lists_the_known_ones(read: object) -> None:
    assert callable(read)
    with pytest.raises(OptionError, match="kazoo") as caught:
        read("kazoo")
    known = OBJECTS if read is sprite else SOUNDS + WORDS
    assert all(name in caught.value.hint for name in known)


def test_the_assets_stay_small() -> None:
    assert sum(path.stat().st_size for path in (FOLDER / "sprites").iterdir()) < 500_000
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.*")) < 6_000_000
