"""Clips of `tools/other_syncclips`: the regimes, and the rules for the surroundings of `busy` clips."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tools.other_syncclips import __main__ as program
from tools.other_syncclips.beds import BABBLE, make_bed
from tools.other_syncclips.clips import OBJECTS, REGIMES, Event, plan
from tools.other_syncclips.fields import backdrops, camera
from tools.other_syncclips.render import frames
from tools.other_syncclips.surroundings import BEDS, TEXTURES, Bed, Shot, Surroundings, draw_surroundings
from tools.other_syncclips.takes import RATE, SOUNDS, WORDS, Floats, write_wave

ALIKE = {"won", "to", "too", "for", "fore", "ate", "oh", "nought", "sicks", "tree", "free", "fife", "once", "twice"}


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled square instead of every object."""
    folder = tmp_path_factory.mktemp("sprites")
    for index, code in enumerate(OBJECTS.values()):
        image = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(image).rectangle((4, 4, 59, 59), fill=(255, 10 * index, 0, 255))
        image.save(folder / f"{code}.webp", lossless=True)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tone instead of every sound and word, and voices of one tone each, 200 Hz apart."""
    folder, takes = tmp_path_factory.mktemp("sounds"), {}
    for index, name in enumerate(SOUNDS + WORDS):
        seconds = np.arange(round((0.9 if name in SOUNDS else 0.5) * RATE)) / RATE
        write_wave(folder / f"{name}_00.wav", 0.5 * np.sin(2 * np.pi * (300 + 90 * index) * seconds))
        takes[f"{name}_00.wav"] = {"style": "tone"}
    for index in range(12):
        seconds = np.arange(3 * RATE) / RATE
        write_wave(folder / f"voice_{index:02d}.wav", 0.5 * np.sin(2 * np.pi * 200 * (index + 1) * seconds))
    (folder / "takes.json").write_text(json.dumps(takes))
    (folder / "voices.json").write_text("{}")
    return folder


def make(folder: Path, sprites: Path, sounds: Path, *options: str) -> list[dict[str, Any]]:
    """The rows of properties.jsonl of one run of the program."""
    arguments = ["other_syncclips", str(folder), "--sprites", str(sprites), "--sounds", str(sounds), *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        program.main()
    return [json.loads(line) for line in (folder / "properties.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, sprites: Path, sounds: Path) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("busy")
    return folder, make(folder, sprites, sounds, "--regimes", "busy", "--clips", "4", "--seed", "2")


def read_audio(path: Path) -> Floats:
    """One channel at RATE."""
    resampler = av.AudioResampler("fltp", "mono", RATE)
    with av.open(str(path)) as file:
        parts = [part.to_ndarray()[0] for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(parts).astype(float)


def shift(before: Floats, after: Floats) -> Floats:
    """The shift (x, y) of a picture, px, by phase correlation."""
    window = np.outer(np.hanning(before.shape[0]), np.hanning(before.shape[1]))
    cross = np.conj(np.fft.rfft2((before - before.mean()) * window)) * np.fft.rfft2((after - after.mean()) * window)
    peak = np.argmax(np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), before.shape))
    y, x = np.unravel_index(peak, before.shape)
    height, width = before.shape
    return np.array([(x + width // 2) % width - width // 2, (y + height // 2) % height - height // 2], float)


def test_the_four_regimes_take_turns(tmp_path: Path, sprites: Path, sounds: Path) -> None:
    rows = make(tmp_path, sprites, sounds, "--clips", "4")
    questions = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert [row["regime"] for row in rows] == list(REGIMES) == ["balanced", "watch", "listen", "busy"]
    assert {question["regime"] for question in questions} == set(REGIMES)
    assert [("surroundings" in row) for row in rows] == [False, False, False, True]
    assert all((tmp_path / row["media"]).stat().st_size > 1000 for row in rows)


def test_an_unknown_regime_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make(tmp_path / "out", tmp_path, tmp_path, "--regimes", "balanced,bussy")
    assert "unknown regime bussy: use some of balanced, watch, listen, busy" in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([8.0, 12.5, 24000 / 1001, 30.0]), st.floats(4, 10))
def test_surroundings_keep_to_the_rules(seed: int, rate: float, length: float) -> None:
    count = int(length * rate)
    around = draw_surroundings(count, rate, np.random.default_rng(seed))
    assert [shot.first for shot in around.shots] == [0, *(shot.last for shot in around.shots[:-1])]
    assert around.shots[-1].last == count
    assert all((shot.last - shot.first + 1) / rate >= 1.2 for shot in around.shots)
    assert len({shot.texture for shot in around.shots}) == len(around.shots)
    assert 2 <= len(around.shapes) <= 6 and around.bed.kind in BEDS
    for shape in around.shapes:
        assert 0.05 <= shape.radius <= 0.12 and shape.speed > 0 and shape.turn != 0
        assert np.hypot(*np.array(shape.outline).T).max() == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_the_camera_pans_and_zooms_at_most_so_fast(seed: int) -> None:
    rng, rate, side = np.random.default_rng(seed), 25.0, 200
    for shot in draw_surroundings(200, rate, rng).shots:
        centre, scale = camera(replace(shot, shake=0.0), side, rate, rng)
        speed = np.hypot(*np.diff(centre, axis=0).T) * scale[1:] * rate / side  # in the frame
        assert speed.min() >= 0.02 - 1e-9 and speed.max() <= 0.15 + 1e-9
        assert np.abs(np.diff(scale) / scale[:-1]).max() * rate <= 0.031
        shaken = camera(replace(shot, shake=0.005), side, rate, rng)[0]
        assert 0 < np.abs(np.diff(shaken - centre, axis=0)).mean() < 0.02 * side


def test_events_of_busy_clips_are_those_of_balanced_clips(sounds: Path) -> None:
    takes = json.loads((sounds / "takes.json").read_text())
    counts: Counter[tuple[str, int]] = Counter()
    for seed in range(40):
        clip = plan("busy", takes, sounds, np.random.default_rng(seed))
        counts.update([("objects", len(clip.objects)), ("audio", len(clip.audio))])
        assert all(3 <= event.props["above_bed"] <= 10 for event in clip.audio)
        assert clip.props["audio"] != "none" and 5 <= clip.props["snr"] <= 30
    assert {number for what, number in counts if what == "objects"} == {1, 2, 3, 4}
    assert {number for what, number in counts if what == "audio"} == {1, 2, 3, 4}


def test_every_texture_moves_with_the_camera(sounds: Path) -> None:
    bed = Bed("band", 2.0, 5.0, 0.0)
    for texture in TEXTURES:
        shot = Shot(texture, "wide", 0, 11, pan=0.15, heading=0.6, bend=0.0, zoom=0.0, shake=0.0)
        made = list(backdrops(Surroundings((shot,), (), bed), (192, 160), 10.0, np.random.default_rng(1)))
        assert len(made) == 11 and all(picture.shape == (160, 192, 3) for picture in made)
        expected = -0.15 * 160 * np.array([np.cos(0.6), np.sin(0.6)])
        assert shift(made[0].mean(axis=2), made[10].mean(axis=2)) == pytest.approx(expected, abs=1.5), texture
        assert made[0].std() > 8, texture


def test_an_object_covers_fields_and_shapes(sounds: Path, sprites: Path) -> None:
    takes = json.loads((sounds / "takes.json").read_text())
    clip = plan("busy", takes, sounds, np.random.default_rng(3))
    props = {"size": 0.4, "motion": "still", "fade": False, "flip": False, "turn": 0.0}
    clip.size, clip.rate, clip.length = (160, 120), Fraction(8), 4.0
    clip.objects = [Event("dog", 0.0, 4.0, "top left", props)]
    clip.props |= {"grain": 0.0, "drift": 0.0}
    clip.around = draw_surroundings(32, 8.0, np.random.default_rng(4))
    pictures = np.stack(frames(clip, sprites, np.random.default_rng(5)))
    dog = np.abs(pictures.astype(int) - [255, 10, 0]).max(axis=-1) <= 6  # (frames, height, width)
    area = dog[0] & dog[-1]
    assert area.sum() >= 0.9 * 48**2
    assert (dog[:, area].mean(axis=1) > 0.97).all()
    assert (pictures[1:] != pictures[:-1]).any(axis=-1)[:, ~area].mean() > 0.3


@pytest.mark.parametrize("kind", BEDS)
def test_a_bed_is_there_throughout_and_swells_slowly(kind: str, sounds: Path) -> None:
    for seed in range(4):
        bed, rng = Bed(kind, 4.0, 5.0, 0.5 * seed), np.random.default_rng(seed)
        data = make_bed(bed, 10 * RATE, sounds, rng)
        assert np.mean(data**2) == pytest.approx(1)
        level = 10 * np.log10(np.mean(data.reshape(-1, RATE // 2) ** 2, axis=1))  # of each half second
        assert level.min() > -10 and level.max() < 8
        seconds = np.arange(0.25, 10, 0.5)
        assert np.corrcoef(level, np.sin(2 * np.pi * seconds / bed.period + bed.phase))[0, 1] > 0.8


def test_a_babble_has_at_least_four_voices_at_any_time(sounds: Path) -> None:
    for seed in range(6):
        data = make_bed(Bed("babble", 1.0, 8.0, 0.0), 4 * RATE, sounds, np.random.default_rng(seed))
        for second in data.reshape(4, RATE):
            spectrum = np.abs(np.fft.rfft(second * np.hanning(RATE)))[200 : 200 * 12 + 1 : 200]  # of the voices' tones
            assert 4 <= (spectrum > 0.2 * spectrum.max()).sum() <= 9


def test_the_babble_says_no_number() -> None:
    assert not set(BABBLE) & ({*WORDS, "ten", "eleven", "hundred"} | ALIKE)
    assert not set(BABBLE) & ({*SOUNDS, *OBJECTS})


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng shows that no babble word contains a number")
def test_no_word_of_the_babble_contains_the_sound_of_a_number() -> None:
    def phonemes(words: list[str]) -> list[str]:
        command = ["espeak-ng", "-q", "-x", "-v", "en-us", "\n".join(f"{word}." for word in words)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return ["".join(c for c in line if c not in "', ") for line in said.splitlines() if line.strip()]

    numbers, words = phonemes(WORDS), phonemes(BABBLE)
    assert len(numbers) == len(WORDS) and len(words) == len(BABBLE)
    assert not [
        (word, number) for word, heard in zip(BABBLE, words, strict=True) for number in numbers if number in heard
    ]


def test_in_the_files_every_event_is_as_far_above_the_bed_as_planned(busy: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = busy
    checked = 0
    for row in rows:
        data = read_audio(folder / row["media"])
        events = [event for event in row["events"] if "above_bed" in event]
        alone = np.ones(len(data), bool)
        for event in events:
            alone[round((event["start"] - 0.1) * RATE) : round((event["end"] + 0.15) * RATE)] = False
        bed = np.mean(data[alone] ** 2)
        assert bed > 0 and alone.sum() > RATE / 2
        for event in events:
            part = data[round((event["start"] + 0.05) * RATE) : round((event["end"] - 0.05) * RATE)]
            above = 10 * np.log10(max(np.mean(part**2) - bed, 1e-9) / bed)
            assert above == pytest.approx(event["above_bed"], abs=row["surroundings"]["bed"]["swell"] + 2.0)
            checked += 1
    assert checked >= 5


def test_in_the_files_the_field_pans_as_fast_as_planned(busy: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = busy
    checked = 0
    for row in rows:
        with av.open(str(folder / row["media"])) as file:
            pictures = np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)]).astype(float)
        assert len(pictures) == row["surroundings"]["shots"][-1]["last"]
        side, step = min(row["size"]), round(0.8 * row["rate"])
        for shot in row["surroundings"]["shots"]:
            way = shot["pan"] * side * step / row["rate"]
            if shot["shake"] or abs(shot["zoom"]) > 0.01 or way < 4 or shot["last"] - shot["first"] < 2 * step:
                continue
            factors = (0.0, 0.5, 1.0, 1.5, 2.0)  # of the planned speed
            errors = np.zeros(len(factors))
            for begin in range(shot["first"], shot["last"] - step, max(1, step // 2)):
                angle = shot["heading"] + shot["bend"] * (begin - shot["first"] + step / 2) / row["rate"]
                for index, factor in enumerate(factors):
                    x, y = (round(-factor * way * part) for part in (np.cos(angle), np.sin(angle)))
                    moved = np.abs(pictures[begin + step] - np.roll(pictures[begin], (y, x), (0, 1)))
                    edge = int(2 * way) + 1
                    # Objects and shapes, which move otherwise, cover less than half of the picture.
                    errors[index] += np.median(moved[edge:-edge, edge:-edge])
            assert factors[int(errors.argmin())] == 1, (row["media"], shot, errors)
            checked += 1
    assert checked >= 2
