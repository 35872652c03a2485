"""A film for a benchmark without a download: the bundled clip, repeated and enlarged."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.media import read_clip
from echoingpixels.media.clip import SAMPLE_RATE
from echoingpixels.options import MediaOptions
from echoingpixels.synth.encode import VIDEO_ENCODERS, VIDEO_OPTIONS

if TYPE_CHECKING:
    from av.video.stream import VideoStream

DEMO = ASSETS / "demo.mp4"
RATE = 25  # frames/s
PART = SAMPLE_RATE // RATE  # audio samples of a frame


def write_film(path: Path, seconds: float, width: int, height: int) -> None:
    """Write an MP4 file of H.264 and AAC, whose video and audio end together."""
    import av

    clip = read_clip(DEMO, MediaOptions(fps=RATE, max_frames=10_000))
    assert clip.audio is not None
    frames = round(seconds * RATE)
    audio = np.resize(clip.audio, frames * PART)  # repeated
    with av.open(str(path), "w", format="mp4") as container:
        options = dict(VIDEO_OPTIONS["h264"])
        video = cast("VideoStream", container.add_stream(VIDEO_ENCODERS["h264"], rate=RATE, options=options))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for i in range(frames):
            picture = av.VideoFrame.from_ndarray(clip.frames[i % len(clip.frames)], format="rgb24")
            picture = picture.reformat(width, height, "yuv420p")
            picture.pts, picture.time_base = i, Fraction(1, RATE)
            container.mux(video.encode(picture))
            piece = audio[i * PART : (i + 1) * PART]
            chunk = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = SAMPLE_RATE, i * PART, Fraction(1, SAMPLE_RATE)
            container.mux(sound.encode(chunk))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
