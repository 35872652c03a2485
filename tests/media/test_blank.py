"""The extent of a clip from its packets equals that of decoding, without decoding the video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoingpixels.errors import EpError
from echoingpixels.inputs.prepare import Extent, Measure, extent_of
from echoingpixels.media import Worker, reader
from echoingpixels.media import blank as under_test
from echoingpixels.media.clip import Piece
from echoingpixels.media.host import FrameSize, Host
from echoingpixels.options import MediaOptions
from tests.support import clips, realclips
from tests.support.clips import Film, Track, beep
from tests.support.program import Program

pytestmark = pytest.mark.timeout(120)
B_FRAMES = {"bf": "3"}
UNEVEN = [0.0, 0.04, 0.3, 0.35, 0.9, 1.0, 1.7, 1.75, 2.6]
FILMS = {
    "b-frames.mp4": Film(options=B_FRAMES, gop=12, tracks=(Track(beep(4.0, 1.0)),)),
    "b-frames.mkv": Film(options=B_FRAMES, gop=12, tracks=(Track(beep(4.0, 1.0), start=0.7),)),
    "b-frames.ts": Film(options=B_FRAMES, gop=12, tracks=(Track(beep(4.0, 1.0)),)),
    "hevc.mp4": Film(codec="libx265", gop=12),
    "uneven.mp4": Film(times=UNEVEN),
    "late.mkv": Film(start=1.5, tracks=(Track(beep(5.0, 1.0)),)),
    "vp8.webm": Film(codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}, gop=40),
    "vp9.webm": Film(codec="libvpx-vp9", options={"auto-alt-ref": "1", "lag-in-frames": "16"}, gop=40),
    "mpeg4.avi": Film(codec="mpeg4", options=B_FRAMES, gop=12, tracks=(Track(beep(4.0, 1.0), codec="mp3"),)),
    "mpeg2.mpg": Film(codec="mpeg2video", options=B_FRAMES, gop=12, fps=25),
    "motion.mov": Film(codec="mjpeg", pixel_format="yuvj420p"),
    "silent.mp4": Film(tracks=(Track(np.zeros((1, 4 * clips.RATE), np.float32)),)),
    "sound.m4a": Film(codec=None, tracks=(Track(beep(4.0, 1.0)),)),
}


def small(height: int, width: int, frames: int, image: bool) -> tuple[int, int]:
    return 28, 56


OPTIONS: tuple[tuple[MediaOptions, FrameSize | None], ...] = (
    (MediaOptions(), None),
    (MediaOptions(fps=30, max_frames=17), None),
    (MediaOptions(fps=10, start=1.1, end=2.9), None),
    (MediaOptions(start=2.0), small),
    (MediaOptions(fps=1000, max_frames=4000), None),
)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, film in FILMS.items():
        clips.write(folder / name, film)
    clips.turn(Path(clips.write(folder / "turned.mp4", Film())), (0, 1, -1, 0))
    for name, factor in (("long.mp4", 3.0), ("short.mp4", 0.4)):
        clips.write(folder / name, Film(tracks=(Track(beep(4.0, 1.0)),)))
        clips.lie(folder / name, factor)
    for name in ("b-frames.ts", "b-frames.mkv"):
        whole = (folder / name).read_bytes()
        (folder / f"cut-{name}").write_bytes(whole[: len(whole) * 2 // 3])
        (folder / f"headless-{name}").write_bytes(whole[188 * (len(whole) // 752) :])
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each frame made into pixels."""
    conversions, real = [], under_test.FrameConverter.__call__

    def spy(converter: Any, frame: Any) -> Any:
        conversions.append(1)
        return real(converter, frame)

    monkeypatch.setattr(under_test.FrameConverter, "__call__", spy)
    return conversions


def found(path: Path, options: MediaOptions, size: FrameSize | None, blank: bool) -> Extent | str:
    try:
        return extent_of(reader.stream(path, options, Host(blank=blank, frame_size=size)))
    except EpError as error:
        return error.message


NAMES = (*FILMS, "turned.mp4", "long.mp4", "short.mp4", "cut-b-frames.ts", "headless-b-frames.ts")


@pytest.mark.parametrize("name", NAMES)
def test_packets_give_the_extent_that_decoding_gives(name: str, films: Path) -> None:
    for options, size in OPTIONS:
        assert found(films / name, options, size, blank=True) == found(films / name, options, size, blank=False), (
            options
        )


def test_a_file_cut_short_has_nearly_the_extent_that_decoding_gives(films: Path) -> None:
    for options, size in OPTIONS:
        there, real = (found(films / "cut-b-frames.mkv", options, size, blank) for blank in (True, False))
        assert isinstance(there, Extent) and isinstance(real, Extent)
        assert there.samples == pytest.approx(real.samples, abs=16)  # 1 ms: Matroska's clock, where a seek fell short
        assert replace(there, samples=real.samples) == real


@pytest.mark.parametrize("name", [name for name, film in FILMS.items() if film.codec])
def test_only_one_frame_becomes_pixels(name: str, films: Path, decoded: list[int]) -> None:
    assert found(films / name, MediaOptions(fps=10), None, blank=True) and len(decoded) == 1


def test_video_is_decoded_where_packets_do_not_suffice(
    films: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "UNCLEAR", ("h264",))
    assert found(films / "uneven.mp4", MediaOptions(fps=10), None, blank=True)
    assert len(decoded) == len(UNEVEN)


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4", "world.mp4"])
def test_real_clips_have_the_extent_that_decoding_gives(name: str, real_clip: Callable[[str], Path]) -> None:
    for options, size in OPTIONS[:4]:
        assert found(real_clip(name), options, size, blank=True) == found(real_clip(name), options, size, blank=False)


def test_real_formats_have_the_extent_that_decoding_gives() -> None:
    try:
        files = realclips.samples("video")
    except OSError as error:
        pytest.skip(f"would prove that the packets of 21 real formats are read right: {error}")
    for file in files:
        for options, size in OPTIONS[:2]:
            assert found(file, options, size, blank=True) == found(file, options, size, blank=False), file


def test_the_worker_gives_the_same_outline(films: Path) -> None:
    with Worker() as worker:
        for name in ("b-frames.mp4", "sound.m4a", "cut-b-frames.ts"):
            extent = extent_of(worker.outline(films / name, frame_size=small))
            assert extent == found(films / name, MediaOptions(), small, blank=False)


def test_a_dry_run_decodes_no_picture(films: Path, ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "stream", None)
    done = ep("ask", films / "b-frames.mp4", "Who?", "--dry-run", "--json")
    assert done.code == 0 and '"tokens": {"video": {"before": ' in done.out


def test_an_interrupted_measurement_lets_the_worker_close(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(measure: Measure, piece: Piece) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Measure, "add", stop)
    with Worker() as worker:
        pieces = worker.stream(
            films / "b-frames.mp4", MediaOptions(fps=30), frame_size=lambda height, width, frames, image: (560, 840)
        )
        with pytest.raises(KeyboardInterrupt):
            extent_of(pieces)
        assert worker.pid is None  # it waited for more pieces to be taken, and was ended
