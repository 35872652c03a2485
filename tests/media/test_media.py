"""Reading the picture: which frame is shown when, in every container and codec at hand."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from echoingpixels.errors import OptionError
from echoingpixels.media import read_clip
from echoingpixels.media.video import VideoReader
from tests.support.clips import Film, Pipe, Track, beep, beeps, corners, lie, number, quadrants, turn, write

HALVES = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


@pytest.fixture(autouse=True)
def quiet_av1_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "-1")


def numbers(frames: np.ndarray) -> list[int]:
    return [number(frame) for frame in frames]


def test_ten_seconds_at_two_a_second_are_twenty_frames_half_a_second_apart(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", Film(seconds=10)), fps=2)
    assert clip.frames.shape == (20, 64, 96, 3) and clip.frames.dtype == np.uint8
    assert clip.times.tolist() == [i / 2 for i in range(20)]
    assert numbers(clip.frames) == [15 * i for i in range(20)]
    assert clip.duration == 10 and clip.source.kind == "video" and clip.source.warnings == ()


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mov", "prores_ks", "pcm_s16le"),
        ("a.mkv", "libx264", "aac"),
        ("a.mkv", "libx265", "flac"),
        ("a.mp4", "libx265", "aac"),
        ("a.mp4", "libsvtav1", "aac"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.ts", "libx264", "aac"),
        ("a.ts", "mpeg2video", "mp2"),
        ("a.mpg", "mpeg2video", "mp2"),
        ("a.flv", "libx264", "aac"),
        ("a.avi", "libx264", "pcm_s16le"),
        ("a.avi", "mjpeg", "pcm_s16le"),
    ],
)
def test_each_container_and_codec_gives_the_frame_and_the_beep_of_its_second(
    tmp_path: Path, name: str, codec: str, sound: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec} encoder: it would have proved that {codec} in {name} is read")
    pixels = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    film = Film(codec=codec, pixel_format=pixels, tracks=(Track(beep(4, 1.5), codec=sound),))
    clip = read_clip(write(tmp_path / name, film))
    assert numbers(clip.frames) == [0, 15, 30, 45, 60, 75, 90, 105]
    assert clip.times == pytest.approx(HALVES, abs=1e-3)
    assert clip.audio is not None and beeps(clip.audio) == pytest.approx([1.5], abs=0.01)
    assert clip.duration == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_ten_bit_video_is_read(tmp_path: Path, codec: str) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", Film(codec=codec, pixel_format="yuv420p10le", draw=quadrants)))
    assert [corners(frame) for frame in clip.frames] == ["rgbw"] * 8
    assert np.abs(clip.frames[0, 16, 24].astype(int) - (220, 20, 20)).max() < 12


def test_odd_sizes_keep_every_row_and_column(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", Film(size=(63, 97), pixel_format="yuv444p")))
    assert clip.frames.shape == (8, 63, 97, 3) and numbers(clip.frames)[3] == 45


def test_a_variable_rate_gives_the_frame_on_show_at_its_own_time(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.3, 2.0, 2.05, 2.1, 3.9, 4.0]
    clip = read_clip(write(tmp_path / "a.mkv", Film(times=times)))
    # On show at 0, 0.5 … 1.5 (still), 2, 2.5 … 3.5 (still), 4.
    assert numbers(clip.frames) == [0, 3, 4, 6, 8]
    assert clip.times.tolist() == [0, 0.3, 2.0, 2.1, 4.0]


def test_a_slow_source_gives_each_of_its_frames_once(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", Film(fps=1, seconds=6)), fps=4)
    assert numbers(clip.frames) == [0, 1, 2, 3, 4, 5] and clip.times.tolist() == [0, 1, 2, 3, 4, 5]


def test_too_many_frames_are_spread_over_the_whole_span(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=20))
    clip = read_clip(path, max_frames=8)
    assert clip.times.tolist() == [0, 2.5, 5, 7.5, 10, 12.5, 15, 17.5]
    assert numbers(clip.frames) == [0, 75, 150, 225, 300, 375, 450, 525] and clip.duration == 20
    assert read_clip(path, max_frames=4, start=4, end=12).times.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv", ".avi"])
def test_start_and_end_cut_to_the_frame_and_the_sample(tmp_path: Path, suffix: str) -> None:
    film = Film(seconds=8, gop=45, tracks=(Track(beep(8, 5.5), codec="libmp3lame"),))
    clip = read_clip(write(tmp_path / f"a{suffix}", film), start=5.1, end=6.9)
    assert clip.times == pytest.approx([0, 0.5, 1.0, 1.5], abs=2e-3)
    assert numbers(clip.frames) == [153, 168, 183, 198]
    assert clip.audio is not None and beeps(clip.audio) == pytest.approx([0.4], abs=0.03)
    assert clip.duration == 1.8 and len(clip.audio) == 1.8 * 16_000


def test_a_picture_that_starts_late_keeps_its_place(tmp_path: Path) -> None:
    film = Film(seconds=2, start=2.0, tracks=(Track(beep(4, 0.5)),))
    clip = read_clip(write(tmp_path / "a.mkv", film))
    assert clip.times.tolist() == [2.0, 2.5, 3.0, 3.5] and numbers(clip.frames) == [0, 15, 30, 45]
    assert clip.audio is not None and beeps(clip.audio) == pytest.approx([0.5], abs=0.01)


@pytest.mark.parametrize(
    ("matrix", "shape", "upright", "degrees"),
    [
        ((0, 1, -1, 0), (96, 64), "brwg", 270),  # as a phone held upright writes it
        ((-1, 0, 0, -1), (64, 96), "wbgr", 180),
        ((0, -1, 1, 0), (96, 64), "gwrb", 90),
        ((-1, 0, 0, 1), (64, 96), "grwb", None),  # mirrored
        ((1, 0, 0, -1), (64, 96), "bwrg", None),  # upside down
    ],
)
def test_rotation_and_mirroring_are_undone(
    tmp_path: Path, matrix: tuple[int, int, int, int], shape: tuple[int, int], upright: str, degrees: int | None
) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=1, draw=quadrants))
    turn(path, matrix)
    clip = read_clip(path)
    assert clip.frames.shape[1:3] == shape and corners(clip.frames[0]) == upright
    assert clip.source.video is not None and clip.source.video.size == shape
    assert degrees is None or clip.source.video.rotation == degrees


@pytest.mark.parametrize("factor", [0, 0.1, 100])
def test_a_false_duration_changes_nothing(tmp_path: Path, factor: float) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=10))
    lie(path, factor)
    assert read_clip(path).times.tolist() == [i / 2 for i in range(20)]
    assert read_clip(path, max_frames=5).times.tolist() == [0, 2, 4, 6, 8]


def test_a_file_without_duration_or_frame_count_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = Pipe()
    write(pipe, Film(seconds=10, tracks=(Track(beep(10, 7.5)),)), "matroska")
    path = tmp_path / "live.mkv"
    path.write_bytes(b"".join(pipe.parts))
    clip = read_clip(path)
    assert clip.source.duration is None and clip.times.tolist() == [i / 2 for i in range(20)]
    assert clip.audio is not None and beeps(clip.audio) == pytest.approx([7.5], abs=0.01)
    assert read_clip(path, max_frames=5).times.tolist() == [0, 2, 4, 6, 8]


def test_a_raw_stream_without_time_stamps_covers_its_whole_length(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h264", Film(seconds=8, fps=25), "h264")
    assert numbers(read_clip(path).frames)[:3] == [0, 12, 25]
    few = read_clip(path, max_frames=4)
    assert len(few.times) == 4 and few.times[-1] >= 5


def test_joined_recordings_have_one_clock(tmp_path: Path) -> None:
    film = Film(tracks=(Track(beep(4, 1.5)),))
    part = io.BytesIO()
    write(part, film, "mpegts")
    path = tmp_path / "joined.ts"
    path.write_bytes(part.getvalue() * 2)
    clip = read_clip(path)
    assert numbers(clip.frames) == [0, 15, 30, 45, 60, 75, 90, 105] * 2
    assert clip.audio is not None and beeps(clip.audio) == pytest.approx([1.5, 5.5], abs=0.05)


def test_frames_are_resized_as_they_arrive(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=1, size=(96, 64), draw=quadrants))
    turn(path, (0, 1, -1, 0))
    asked = []

    def size(height: int, width: int, frames: int, image: bool) -> tuple[int, int]:
        asked.append((height, width, frames, image))
        return 28, 56

    clip = read_clip(path, frame_size=size)
    assert asked == [(64, 96, 2, False)] and clip.frames.shape == (2, 28, 56, 3) and corners(clip.frames[0]) == "brwg"
    assert clip.source.video is not None and clip.source.video.size == (64, 96)


def test_an_unknown_keyword_is_refused_with_a_list_of_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'frames_per_second'") as caught:
        read_clip(tmp_path / "a.mp4", frames_per_second=2)
    assert "fps, max_frames, start, end, audio, audio_track" in caught.value.hint


def test_memory_is_bounded_by_the_frames_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=20, size=(240, 320)))
    read_clip(path, max_frames=2)
    tracemalloc.start()
    clip = read_clip(path, fps=30, max_frames=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clip.frames) == 10 and peak < 30 * clip.frames[0].nbytes  # of 600 frames in the file


def test_frames_that_were_read_do_not_wait_for_the_garbage_collector(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=2))
    turn(path, (0, 1, -1, 0))
    read_clip(path)
    gc.collect()
    gc.disable()
    try:
        assert len(read_clip(path, fps=30).frames) == 60
        assert gc.collect() < 10
    finally:
        gc.enable()


def test_stretches_without_a_wanted_frame_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    place = VideoReader._place
    monkeypatch.setattr(VideoReader, "_place", lambda self, frame: (decoded.append(1), place(self, frame))[1])
    path = write(tmp_path / "a.mp4", Film(seconds=20, gop=30))
    clip = read_clip(path, max_frames=3)
    assert numbers(clip.frames) == [0, 200, 400] and len(decoded) < 150
    decoded.clear()
    assert numbers(read_clip(path, start=10, end=11).frames) == [300, 315] and len(decoded) < 90


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4", "jwpIntro.mp4", "world.mp4"])
def test_real_clips_give_the_frames_that_plain_decoding_gives(real_clip: Callable[[str], Path], name: str) -> None:
    path = real_clip(name)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        every = [
            (float(f.pts * stream.time_base), f.to_ndarray(format="rgb24")[::16, ::16])
            for f in container.decode(stream)
        ]
    for options in ({}, {"max_frames": 5}, {"start": 2.2, "end": 3.9, "fps": 3.0}):
        clip = read_clip(path, **options)
        start = options.get("start", 0.0)
        for time, frame in zip(clip.times, clip.frames, strict=True):
            shown = [pixels for at, pixels in every if at - start <= time + 1e-6][-1]
            assert np.array_equal(frame[::16, ::16], shown)
        gaps = np.diff(clip.times)
        assert len(clip.times) >= 4 and gaps.min() > 0 and gaps.max() - gaps.min() < 0.09
    assert read_clip(path).source.warnings == ()


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=1))
    code = "import sys, echoingpixels.media as m; m.read_clip(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_what_the_options_leave_out_is_not_read(tmp_path: Path) -> None:
    film = Film(seconds=2, tracks=(Track(beep(2, 0.5)),))
    clip = read_clip(write(tmp_path / "a.mp4", film), audio=False)
    assert clip.audio is None and clip.source.audio is None and not clip.source.silent and clip.source.notes == ()
