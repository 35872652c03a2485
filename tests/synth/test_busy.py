"""Clips of regime `busy`: surroundings that never rest, and a bed of sound under every event."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from echoingpixels.synth.assets import RATE, voices
from echoingpixels.synth.backdrop import TEXTURES, Backdrop
from echoingpixels.synth.beds import BEDS, bed
from echoingpixels.synth.plan import plan
from echoingpixels.synth.render import Scene, waveform
from echoingpixels.synth.timeline import Bed, Field, FlatShape, Surroundings, Timeline

PLANS = [plan(13, index, ("busy",)) for index in range(300)]


def fields(line: Timeline) -> tuple[Field, ...]:
    assert line.surroundings is not None
    return line.surroundings.fields


def bed_of(line: Timeline) -> Bed:
    assert line.track is not None and line.track.bed is not None
    return line.track.bed


def test_other_regimes_have_no_surroundings_and_no_bed() -> None:
    for index in range(60):
        line = plan(13, index, ("balanced", "watch", "listen"))
        assert line.surroundings is None and (line.track is None or line.track.bed is None)


def test_every_texture_and_every_bed_is_drawn_often() -> None:
    textures = [field.texture for line in PLANS for field in fields(line)]
    assert set(textures) == set(TEXTURES) and min(textures.count(name) for name in TEXTURES) > 0.05 * len(textures)
    beds = [bed_of(line).kind for line in PLANS]
    assert set(beds) == set(BEDS) and min(beds.count(name) for name in BEDS) > 0.2 * len(beds)


def test_fields_pan_and_zoom_and_shapes_have_the_sizes_of_the_rules() -> None:
    for line in PLANS:
        assert line.surroundings is not None
        assert fields(line)[0].start == 0 and [f.start for f in fields(line)] == sorted(f.start for f in fields(line))
        for field in fields(line):
            assert 0.02 <= np.hypot(*field.pan) <= 0.15 and abs(field.zoom) <= 0.03 and field.start < line.duration
        assert 2 <= len(line.surroundings.shapes) <= 6
        for shape in line.surroundings.shapes:
            assert 0.05 <= shape.radius <= 0.12 and any(shape.drift)
    assert any(len(fields(line)) > 1 for line in PLANS) and any(f.shake for line in PLANS for f in fields(line))


def test_the_bed_is_three_to_ten_decibels_under_every_event() -> None:
    for line in PLANS:
        gains = [event.gain for event in line.events if event.kind != "object"]
        assert all(3 <= bed_of(line).below + gain <= 10 for gain in gains)


@pytest.mark.parametrize("kind", BEDS)
def test_the_mixed_bed_has_its_level_and_swells(kind: str) -> None:
    line = next(line for line in PLANS if bed_of(line).kind == kind)
    track = line.track
    assert track is not None
    alone = waveform(replace(line, events=(), track=replace(track, snr=90.0)), 16_000)
    assert alone is not None and len(alone) == round(line.duration * 16_000)
    level = 20 * np.log10(np.sqrt(np.mean(alone**2)))
    assert level == pytest.approx(track.level - bed_of(line).below, abs=0.2)
    steady, swelling = (
        bed(replace(bed_of(line), swell=swell, swell_s=4.0), 160_000, 16_000).reshape(10, -1).std(1)
        for swell in (0.0, 0.5)
    )
    assert np.ptp(swelling / steady) > 0.3


def test_voices_speak_for_seconds_and_are_many() -> None:
    assert len(voices()) >= 4 and all(3 < len(voice) / RATE < 9 for voice in voices())


@pytest.mark.parametrize("texture", sorted(set(TEXTURES)))
def test_a_field_moves_by_its_pan_and_never_shows_its_border(texture: str) -> None:
    field = Field(texture, 5, 0.0, (0.1, 0.0), 0.0, 0.0, 1.0)
    drop = Backdrop.of(Surroundings((field,), ()), 8.0, 160, 120)
    first, later = (np.asarray(drop.frame(now)).astype(int) for now in (1.0, 6.0))
    moved = round(0.1 * 5 * 120)  # px, to the left
    same = np.abs(first[:, moved:] - later[:, :-moved]).mean()
    assert same < 0.25 * np.abs(first - later).mean() or same < 1
    assert all((np.asarray(drop.frame(now))[[0, -1]].sum(-1) > 0).mean() > 0.9 for now in (0.0, 8.0))


@pytest.mark.parametrize("zoom", [-0.03, 0.03])
def test_the_frame_stays_inside_a_field_that_zooms_shakes_and_pans(zoom: float) -> None:
    field = Field("clouds", 9, 0.0, (0.1, -0.1), zoom, 0.012, 3.3)
    drop = Backdrop.of(Surroundings((field,), ()), 10.0, 200, 128)
    white = Backdrop(drop.surroundings, 10.0, 200, 128, (Image.new("RGB", drop.pictures[0].size, "white"),))
    for now in np.linspace(0, 10, 41):
        assert np.asarray(white.frame(float(now))).min() == 255, now


def test_a_cut_replaces_the_field_and_a_shape_turns_in_front_of_it() -> None:
    still = {"pan": (0.02, 0.0), "zoom": 0.0, "shake": 0.0, "shake_hz": 1.0}
    two = (Field("waves", 1, 0.0, **still), Field("tiles", 2, 2.0, **still))  # type: ignore[arg-type]
    drop = Backdrop.of(Surroundings(two, ()), 4.0, 120, 120)
    before, after = (np.asarray(drop.frame(now)).astype(int) for now in (1.95, 2.05))
    assert np.abs(before - after).mean() > 5 * np.abs(before - np.asarray(drop.frame(1.9))).mean()
    shape = FlatShape(3, 0.12, 1.0, (255, 0, 255), (0.5, 0.5), (0.0, 0.01), 90.0)
    with_shape = Backdrop(Surroundings(two, (shape,)), 4.0, 120, 120, drop.pictures)
    drawn = [(np.asarray(with_shape.frame(now)) == (255, 0, 255)).all(-1) for now in (0.0, 0.5)]
    assert all(100 < found.sum() < 900 for found in drawn) and (drawn[0] != drawn[1]).any()


def test_every_frame_of_a_busy_clip_differs_from_the_one_before() -> None:
    for line in PLANS[:6]:
        scene = Scene.of(replace(line, look=replace(line.look, grain=0.0, drift=0.0)))
        times = [number / line.fps for number in range(0, line.frames, 4)]
        frames = [scene.frame(t) for t in times]
        assert all((a != b).mean() > 0.02 for a, b in pairwise(frames))
