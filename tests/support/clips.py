"""Small media files with known contents, written with PyAV. Each frame carries its number, each sound a beep."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

BITS = 10  # of a frame's number
TONE = 1000.0  # Hz
BEEP = 0.2  # s
RATE = 48_000  # Hz

Pixels = npt.NDArray[np.uint8]


def numbered(i: int, height: int = 64, width: int = 96) -> Pixels:
    """A frame (H, W, 3) that shows the number `i` as black and white columns."""
    row = np.zeros(width, np.uint8)
    for bit in range(BITS):
        row[bit * width // BITS : (bit + 1) * width // BITS] = 235 if i >> bit & 1 else 16
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number(frame: Pixels) -> int:
    """The number that a frame shows."""
    width = frame.shape[1]
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(int(frame[:, x].mean() > 128) << bit for bit, x in enumerate(middles))


def quadrants(_: int = 0, height: int = 64, width: int = 96) -> Pixels:
    """Red, green / blue, white: what is where after a turn is easy to say."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2] = (220, 20, 20)
    frame[: height // 2, width // 2 :] = (20, 220, 20)
    frame[height // 2 :, : width // 2] = (20, 20, 220)
    frame[height // 2 :, width // 2 :] = (235, 235, 235)
    return frame


def corners(frame: Pixels) -> str:
    """The colours of a frame's corners, row by row: "rgbw" for `quadrants`."""
    height, width = frame.shape[:2]
    names = ""
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            pixel = frame[y, x].astype(int)
            names += "w" if pixel.min() > 128 else "rgb"[int(pixel.argmax())]
    return names


def beep(seconds: float, at: float, rate: int = RATE, channels: int = 1, only: int | None = None) -> npt.NDArray[Any]:
    """Silence (channels, S) float32 with a beep at second `at`, on every channel or `only` one."""
    t = np.arange(round(seconds * rate)) / rate
    mono = np.where((t >= at) & (t < at + BEEP), 0.5 * np.sin(2 * np.pi * TONE * (t - at)), 0).astype(np.float32)
    sound = np.zeros((channels, len(mono)), np.float32)
    sound[slice(None) if only is None else only] = mono
    return sound


def beeps(audio: npt.NDArray[np.float32], rate: int = 16_000) -> list[float]:
    """The seconds at which beeps begin."""
    loud = np.convolve(np.abs(audio), np.ones(rate // 100) / (rate // 100), "same") > 0.3 * np.abs(audio).max()
    return [round(float(i) / rate, 3) for i in np.flatnonzero(loud[1:] & ~loud[:-1])]


@dataclass(frozen=True)
class Track:
    """A sound track: samples (channels, S), from second `start`; `then`: further pieces, each from its own second."""

    samples: npt.NDArray[Any]
    codec: str = "aac"
    layout: str = "mono"
    start: float = 0.0
    rate: int = RATE
    default: bool | None = None
    then: tuple[tuple[float, npt.NDArray[Any]], ...] = ()


@dataclass(frozen=True)
class Film:
    """What `write` writes. `times`: when each frame is shown (s), instead of `seconds` at `fps`."""

    seconds: float = 4.0
    fps: int = 30
    size: tuple[int, int] = (64, 96)
    codec: str | None = "libx264"
    pixel_format: str = "yuv420p"
    times: Sequence[float] | None = None
    gop: int = 30
    draw: Callable[[int, int, int], Pixels] = numbered
    tracks: tuple[Track, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    start: float = 0.0

    @property
    def shown(self) -> list[float]:
        """When each frame is shown (s)."""
        if self.times is not None:
            return list(self.times)
        return [self.start + i / self.fps for i in range(round(self.seconds * self.fps))]


def write(target: Path | io.RawIOBase, film: Film, format: str | None = None) -> Any:
    """Writes `film` to a path or a file object and returns the target."""
    name = str(target) if isinstance(target, Path) else target
    with av.open(name, "w", format=format, options=film.container_options) as out:
        streams = [(_video(out, film), film)] if film.codec else []
        sounds = [(_audio(out, track), track) for track in film.tracks]
        packets = [packet for stream, what in streams for packet in _pictures(stream, what)]
        packets += [packet for stream, track in sounds for packet in _sounds(stream, track)]
        for packet in sorted(packets, key=lambda p: float((p.dts if p.dts is not None else 0) * p.time_base)):
            out.mux(packet)
    return target


def _video(out: Any, film: Film) -> Any:
    quiet = {"libx265": {"x265-params": f"log-level=none:keyint={film.gop}"}, "libx264": {"preset": "veryfast"}}
    fast = {"libsvtav1": {"preset": "12", "svtav1-params": f"keyint={film.gop}"}, "libvpx-vp9": {"cpu-used": "8"}}
    options = {**quiet.get(film.codec or "", {}), **fast.get(film.codec or "", {}), **film.options}
    stream = out.add_stream(film.codec, rate=film.fps, options=options)
    stream.height, stream.width = film.size
    stream.pix_fmt, stream.gop_size = film.pixel_format, film.gop
    stream.codec_context.time_base = Fraction(1, 1000 if film.times is not None else film.fps)
    stream.codec_context.thread_count = 1
    return stream


def _pictures(stream: Any, film: Film) -> list[Any]:
    packets: list[Any] = []
    for i, time in enumerate(film.shown):
        frame = av.VideoFrame.from_ndarray(film.draw(i, *film.size), format="rgb24")
        frame.time_base = stream.codec_context.time_base
        frame.pts = round(time / frame.time_base)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    return packets


def _audio(out: Any, track: Track) -> Any:
    stream = out.add_stream(track.codec, rate=track.rate)
    stream.layout = track.layout
    if track.default is not None:
        stream.disposition = 1 if track.default else 0
    return stream


def _sounds(stream: Any, track: Track) -> list[Any]:
    packets: list[Any] = []
    for start, samples in ((track.start, track.samples), *track.then):
        packed = np.ascontiguousarray(samples.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=track.layout)
        frame.sample_rate, frame.time_base = track.rate, Fraction(1, track.rate)
        frame.pts = round(start * track.rate)
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


class Pipe(io.RawIOBase):
    """A file object that cannot be searched, as a live recording's: the length stays unwritten."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(data)


def lie(path: Path, factor: float) -> None:
    """Multiplies the durations that an MP4's headers state (not its edit lists, which are cuts)."""
    data = bytearray(path.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = data.find(box)
        while at >= 0:
            (duration,) = struct.unpack_from(">I", data, at + offset)
            struct.pack_into(">I", data, at + offset, min(int(duration * factor), 2**31 - 1))
            at = data.find(box, at + 4)
    path.write_bytes(data)


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes a display matrix (a, b, c, d) into the first track of an MP4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def add_cover(source: Path, target: Path, picture: bytes) -> Path:
    """Copies a sound file and attaches a JPEG as its cover art."""
    format = "mp4" if target.suffix == ".m4a" else None  # FFmpeg's own choice for .m4a takes no pictures
    with av.open(str(source)) as container, av.open(str(target), "w", format=format) as out:
        sound = out.add_stream_from_template(container.streams.audio[0])
        art = out.add_stream("mjpeg")
        art.height, art.width, art.pix_fmt = 64, 96, "yuvj420p"
        art.disposition = Disposition.attached_pic
        cover = av.Packet(picture)
        cover.stream, cover.pts, cover.dts, cover.time_base = art, 0, 0, Fraction(1, 90_000)
        cover.is_keyframe = True
        packets = [packet for packet in container.demux() if packet.size]
        out.mux(cover)
        for packet in packets:
            packet.stream = sound
            out.mux(packet)
    return target
