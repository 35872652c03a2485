"""Frames that are not wanted may be left out; those that are wanted are the same as when every one is decoded."""

from __future__ import annotations

import random
from pathlib import Path

import av
import numpy as np
import pytest

from echoingpixels.media import read_clip
from echoingpixels.media.sampler import ROUNDING, Sampler
from echoingpixels.media.video import VideoReader
from tests.support.clips import Film, write

BUILT_UPON = {"x264-params": "bframes=3:b-pyramid=normal:ref=4:scenecut=0"}  # B-frames, some of them referred to
OPEN = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}
X265 = {"x265-params": "log-level=none:open-gop=1:keyint=25"}
UNEVEN = [0.04 * i + 0.013 * (i % 3) + (2.5 if i > 150 else 0) for i in range(250)]
FILMS = {
    "b-frames.mp4": Film(seconds=12, fps=25, gop=60, options=BUILT_UPON),
    "open.mkv": Film(seconds=12, fps=25, gop=25, options=OPEN),
    "open-hevc.mp4": Film(seconds=6, fps=25, gop=25, codec="libx265", options=X265),
    "begins-later.mp4": Film(seconds=8, fps=25, gop=40, start=1.2, options=BUILT_UPON),  # with an edit list
    "uneven.mkv": Film(times=UNEVEN, gop=50, options=BUILT_UPON),
    "broadcast.ts": Film(seconds=8, fps=25, gop=30, options=BUILT_UPON),
    "mpeg2.mpg": Film(seconds=8, fps=25, gop=12, codec="mpeg2video", options={"bf": "2"}),
    "vp9.webm": Film(seconds=6, fps=25, gop=50, codec="libvpx-vp9", options={"cpu-used": "8"}),
    "cut-short.ts": Film(seconds=8, fps=25, gop=30, options=BUILT_UPON),
}


@pytest.fixture(scope="module", params=FILMS)
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = write(tmp_path_factory.mktemp("films") / request.param, FILMS[request.param])
    if "cut-short" in path.name:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def every_frame(path: Path) -> list[tuple[float, np.ndarray]]:
    """When each frame is shown, in s after the first, and its pixels, decoded plainly."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stamps = [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        return [(float((stamp - stamps[0][0]) * stream.time_base), pixels) for stamp, pixels in stamps]


def sampled(path: Path, frames: list[tuple[float, np.ndarray]], fps: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """What the sampler keeps when it is offered every frame."""
    with av.open(str(path)) as container:
        unit = float(container.streams.video[0].time_base or 1)
    sampler: Sampler[np.ndarray] = Sampler(fps, 10_000, None, lambda pixels: pixels, min(unit / 2, ROUNDING))
    for time, pixels in frames:
        sampler.offer(time, pixels)
    return sampler.finish(frames[-1][0] + 0.04)


def test_sparse_reading_gives_the_frames_and_times_of_plain_decoding(film: Path) -> None:
    frames, draw = every_frame(film), random.Random(film.name)
    for fps in (0.1, 0.3, 0.5, 1.0, 2.0, draw.uniform(0.2, 4), draw.uniform(4, 12)):
        clip = read_clip(film, fps=fps, max_frames=10_000)
        times, pixels = sampled(film, frames, fps)
        assert clip.times == pytest.approx(times, abs=1e-6), fps
        assert np.array_equal(clip.frames, pixels), fps


def test_only_referenced_and_wanted_frames_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "b-frames.mp4", FILMS["b-frames.mp4"])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        referenced = {frame.pts for frame in container.decode(stream)}
        units = round(1 / stream.time_base)
    decoded, place = set(), VideoReader._place
    monkeypatch.setattr(VideoReader, "_place", lambda self, frame: (decoded.add(frame.pts), place(self, frame))[1])
    wanted = {round(units * time) + min(referenced) for time in read_clip(path, fps=3).times}
    assert len(referenced) < 250 and decoded - referenced == wanted - referenced != set()
