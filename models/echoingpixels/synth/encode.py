"""Writes one timeline to a media file with PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import MediaError
from ..media.container import comment
from .render import Scene, waveform
from .timeline import Timeline, Track

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

MUXERS = {"mp4": "mp4", "webm": "webm", "mkv": "matroska"}
VIDEO_ENCODERS = {"h264": "libx264", "vp9": "libvpx-vp9", "mpeg4": "mpeg4"}
AUDIO_ENCODERS = {"aac": "aac", "opus": "libopus", "mp3": "libmp3lame"}
# Constant quality; mpeg4 has bits per pixel instead.
VIDEO_OPTIONS = {
    "h264": {
        "preset": "veryfast",
        "crf": "23",
        "x264-params": "mbtree=0",
    },  # with mbtree the bytes vary from run to run
    "vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"},
    "mpeg4": {},
}
MPEG4_BITS_PER_PIXEL = 0.25
AUDIO_BITS_PER_S = 64_000  # per channel
VERSION = "SyncClips v2"


def encode(timeline: Timeline, path: Path) -> None:
    """Write the clip to `path`; the file format does not depend on the suffix.

    The file's comment is `signature(timeline)`. Raises MediaError if this PyAV lacks an encoder.
    """
    import av

    try:
        with av.open(str(path), "w", format=MUXERS[timeline.container], options={"fflags": "+bitexact"}) as container:
            container.metadata["comment"] = signature(timeline)
            video = _video_stream(container, timeline)
            audio = None if timeline.track is None else _audio_stream(container, timeline.track)
            _write(container, timeline, video, audio)
    except av.codec.codec.UnknownCodecError as error:
        raise MediaError(
            f"This PyAV cannot encode {timeline.codec} with {timeline.track.codec if timeline.track else 'no sound'}.",
            "Install the `av` wheel from PyPI, which has all encoders of SyncClips.",
        ) from error


def signature(timeline: Timeline) -> str:
    """The identity of a clip, which its file stores."""
    return f"{VERSION}, seed {timeline.seed}, clip {timeline.index}, {timeline.regime}"


def read_signature(path: Path) -> str | None:
    """The signature in a file; None without one, or if the file cannot be read."""
    import av

    try:
        with av.open(str(path)) as container:
            return comment(container)
    except (av.FFmpegError, OSError):
        return None


def _video_stream(container: OutputContainer, timeline: Timeline) -> VideoStream:
    rate = Fraction(timeline.fps).limit_denominator(1001)
    options = dict(VIDEO_OPTIONS[timeline.codec])
    stream = cast("VideoStream", container.add_stream(VIDEO_ENCODERS[timeline.codec], rate=rate, options=options))
    stream.width, stream.height, stream.pix_fmt = timeline.width, timeline.height, "yuv420p"
    stream.codec_context.thread_count = 1
    stream.codec_context.time_base = 1 / rate
    if timeline.codec == "mpeg4":
        stream.bit_rate = round(MPEG4_BITS_PER_PIXEL * timeline.width * timeline.height * timeline.fps)
    return stream


def _audio_stream(container: OutputContainer, track: Track) -> AudioStream:
    layout = "mono" if track.channels == 1 else "stereo"
    stream = cast("AudioStream", container.add_stream(AUDIO_ENCODERS[track.codec], rate=track.rate, layout=layout))
    stream.bit_rate = AUDIO_BITS_PER_S * track.channels
    return stream


def _write(container: OutputContainer, timeline: Timeline, video: VideoStream, audio: AudioStream | None) -> None:
    """Encode frame by frame, each with its part of the audio, so that the file is interleaved."""
    import av

    scene = Scene.of(timeline)
    sound = _channels(timeline)
    for number in range(timeline.frames):
        picture = av.VideoFrame.from_ndarray(scene.frame(number / timeline.fps), format="rgb24")
        picture.pts, picture.time_base = number, 1 / Fraction(timeline.fps).limit_denominator(1001)
        container.mux(video.encode(picture))
        if audio is not None and sound is not None:
            for chunk in _chunks(timeline, sound, number):
                container.mux(audio.encode(chunk))
    container.mux(video.encode(None))
    if audio is not None:
        container.mux(audio.encode(None))


def _channels(timeline: Timeline) -> NDArray[np.float32] | None:
    """The audio, (channels, S) float32 at the rate of the track, or None."""
    track = timeline.track
    mono = None if track is None else waveform(timeline, track.rate)
    if track is None or mono is None:
        return None
    if track.channels == 1:
        return mono[None]
    gains = np.array([[min(1.0, 1 - track.balance)], [min(1.0, 1 + track.balance)]], np.float32)
    return gains * mono


def _chunks(timeline: Timeline, sound: NDArray[np.float32], number: int) -> Iterator[AudioFrame]:
    """The audio of native frame `number`."""
    import av

    assert timeline.track is not None, timeline
    rate = timeline.track.rate
    first, last = (round(edge * rate / timeline.fps) for edge in (number, number + 1))
    piece = np.ascontiguousarray(sound[:, first:last])
    if piece.size:
        chunk = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono" if len(piece) == 1 else "stereo")
        chunk.sample_rate, chunk.pts, chunk.time_base = rate, first, Fraction(1, rate)
        yield chunk
