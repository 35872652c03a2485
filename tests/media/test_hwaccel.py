"""Hardware decoding falls back to software with one note."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.hwaccel import hwdevices_available

from echoingpixels.errors import OptionError
from echoingpixels.features.cache import feature_key
from echoingpixels.media import Worker, read_clip
from echoingpixels.media.container import decodes_in, open_media
from echoingpixels.options import MediaOptions
from tests.support.program import Program

SOFTWARE = "software decoded it"


def has_device(name: str, path: Path) -> bool:
    with open_media(path, name) as container:
        frame = next(container.decode(video=0))
        return decodes_in(container.streams.video[0].codec_context, name) and isinstance(frame, av.VideoFrame)


@pytest.fixture
def device(film: Path) -> str:
    """A device type that FFmpeg knows and this machine lacks."""
    missing = [name for name in hwdevices_available() if not has_device(name, film)]
    if not missing:
        pytest.skip("would prove that software decodes where hardware cannot, on a machine without it")
    return missing[0]


def test_without_the_hardware_the_frames_are_those_of_software_with_one_note(film: Path, device: str) -> None:
    soft, hard = read_clip(film), read_clip(film, hwaccel=device)
    assert np.array_equal(hard.frames, soft.frames) and np.array_equal(hard.times, soft.times)
    (note,) = set(hard.source.notes) - set(soft.source.notes)
    assert SOFTWARE in note and device in note
    with Worker() as worker:
        assert worker.read(film, MediaOptions(hwaccel=device)).source == hard.source


def test_a_video_that_hardware_decodes_has_no_note(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoingpixels.media.decode.decodes_in", lambda context, name: True)
    for name in hwdevices_available():
        assert read_clip(film, hwaccel=name).source.notes == read_clip(film).source.notes


@pytest.mark.parametrize("name", ["cuda:0", "auto", "gpu", ""])
def test_an_unknown_name_is_one_line_that_lists_the_known_ones(film: Path, name: str, ep: Program) -> None:
    with pytest.raises(OptionError, match="Unknown hwaccel") as caught:
        read_clip(film, hwaccel=name)
    assert all(known in caught.value.hint for known in ("off", *hwdevices_available()))
    done = ep("ask", film, "Who?", "--hwaccel", name, "--model", "tiny")
    assert done.code == 2 and done.out == "" and f"Unknown hwaccel {name!r}" in done.err


def test_a_command_prints_the_note_and_the_answer_of_software(film: Path, device: str, ep: Program) -> None:
    soft = ep("ask", film, "Who?", "--model", "tiny", "--no-cache")
    hard = ep("ask", film, "Who?", "--model", "tiny", "--no-cache", "--hwaccel", device)
    assert hard.code == 0 and hard.out == soft.out
    assert hard.err.count(SOFTWARE) == 1 and SOFTWARE not in soft.err


def test_features_of_hardware_frames_have_their_own_key() -> None:
    plain = feature_key("clip", "encoders", MediaOptions())
    assert feature_key("clip", "encoders", MediaOptions(hwaccel="off")) == plain
    assert feature_key("clip", "encoders", MediaOptions(hwaccel="cuda")) != plain
