"""Unusual but sound media, made by name: what `MADE[name](folder)` gives is a file that has to be read, and how long it
lasts (s)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.support.clips import Film, Track, beep, numbered, quadrants, turn, write

Made = Callable[[Path], tuple[Path, float]]


def _film(name: str, seconds: float, film: Film) -> Made:
    return lambda folder: (write(folder / name, film), seconds)


def _sound(name: str, seconds: float, track: Track) -> Made:
    return _film(name, seconds, Film(codec=None, tracks=(track,)))


def _turned(folder: Path) -> tuple[Path, float]:
    path = write(folder / "turned.mp4", Film(seconds=1, draw=quadrants))
    turn(path, (0, 1, -1, 0))
    return path, 1.0


def _moving(kind: str) -> Made:
    def make(folder: Path) -> tuple[Path, float]:
        first, *rest = [Image.fromarray(numbered(i)) for i in range(4)]
        first.save(folder / f"moving.{kind}", save_all=True, append_images=rest, duration=500)
        return folder / f"moving.{kind}", 2.0

    return make


def _still(kind: str, size: tuple[int, int] = (64, 96)) -> Made:
    def make(folder: Path) -> tuple[Path, float]:
        path = folder / f"still{size[0]}.{kind}"
        Image.fromarray(quadrants(0, *size)).save(path)
        return path, 0.0

    return make


ROOM = dict(codec="flac", layout="7.1")
TONE = Track(beep(2, 0.5))
MADE: dict[str, Made] = {
    "mp4": _film("a.mp4", 2, Film(seconds=2, tracks=(TONE,))),
    "mp4 index first": _film("b.mp4", 2, Film(seconds=2, tracks=(TONE,), container_options={"movflags": "faststart"})),
    "mp4 in fragments": _film(
        "c.mp4", 2, Film(seconds=2, tracks=(TONE,), container_options={"movflags": "frag_keyframe+empty_moov"})
    ),
    "mov": _film("a.mov", 2, Film(seconds=2, codec="mjpeg", pixel_format="yuvj420p", tracks=(TONE,))),
    "mkv": _film("a.mkv", 2, Film(seconds=2, tracks=(TONE,))),
    "webm": _film("a.webm", 2, Film(seconds=2, codec="libvpx-vp9", tracks=(Track(beep(2, 0.5), codec="libopus"),))),
    "avi": _film("a.avi", 2, Film(seconds=2, codec="mpeg4", tracks=(Track(beep(2, 0.5), codec="libmp3lame"),))),
    "ts": _film("a.ts", 2, Film(seconds=2, tracks=(TONE,))),
    "mpg": _film("a.mpg", 2, Film(seconds=2, codec="mpeg2video", tracks=(Track(beep(2, 0.5), codec="mp2"),))),
    "flv": _film("a.flv", 2, Film(seconds=2, tracks=(TONE,))),
    "mp3": _sound("a.mp3", 2, Track(beep(2, 0.5), codec="libmp3lame")),
    "m4a": _sound("a.m4a", 2, TONE),
    "ogg": _sound("a.ogg", 2, Track(beep(2, 0.5), codec="libopus")),
    "flac": _sound("a.flac", 2, Track(beep(2, 0.5), codec="flac")),
    "wav": _sound("a.wav", 2, Track(beep(2, 0.5), codec="pcm_s16le")),
    "gif": _moving("gif"),
    "png in motion": _moving("png"),
    "png": _still("png"),
    "jpg": _still("jpg"),
    "webp": _still("webp"),
    "tiff": _still("tiff"),
    "bmp": _still("bmp"),
    "avif": _still("avif"),
    "one pixel": _still("png", (1, 1)),
    "turned": _turned,
    "uneven times": _film("vfr.mkv", 2, Film(times=(0, 0.1, 0.15, 0.9, 1.7, 1.967))),
    "hevc of 10 bits": _film("hevc.mp4", 1, Film(seconds=1, codec="libx265", pixel_format="yuv420p10le")),
    "av1": _film("av1.mp4", 1, Film(seconds=1, codec="libsvtav1")),
    "video of one pixel": _film("one.mkv", 1, Film(seconds=1, size=(1, 1), codec="ffv1", pixel_format="bgr0")),
    "4096 wide": _film("wide.mp4", 0.2, Film(seconds=0.2, size=(64, 4096))),
    "4096 high": _film("high.mp4", 0.2, Film(seconds=0.2, size=(4096, 64))),
    "a tenth of a second": _film("short.mp4", 0.1, Film(seconds=0.1, tracks=(Track(beep(0.1, 0.0)),))),
    "longer sound": _film("longer.mp4", 3, Film(seconds=1, tracks=(Track(beep(3, 2.0)),))),
    "longer picture": _film("picture.mp4", 3, Film(seconds=3, tracks=(Track(beep(1, 0.5)),))),
    "begins before 0": _film(
        "early.mkv", 3, Film(seconds=3, start=-1.0, tracks=(Track(beep(3, 1.5), start=-1.0),),
        container_options={"avoid_negative_ts": "disabled"}),
    ),
    "begins late": _film("late.ts", 2, Film(seconds=2, start=3600.0, tracks=(Track(beep(2, 0.5), start=3600.0),))),
    "8 channels": _sound("room.flac", 1, Track(beep(1, 0.5, channels=8), **ROOM)),  # type: ignore[arg-type]
    "8 kHz": _sound("low.wav", 1, Track(beep(1, 0.5, rate=8_000), codec="pcm_s16le", rate=8_000)),
    "192 kHz": _sound("high.flac", 1, Track(beep(1, 0.5, rate=192_000), codec="flac", rate=192_000)),
    "8 kHz, 8 bits": _sound("law.wav", 1, Track(beep(1, 0.5, rate=8_000), codec="pcm_mulaw", rate=8_000)),
}  # fmt: skip


def without_frames(folder: Path) -> Path:
    """An MP4 that announces a track and holds no frame of it."""
    whole = write(folder / "none.mp4", Film(seconds=1, container_options={"movflags": "frag_keyframe+empty_moov"}))
    data = whole.read_bytes()
    whole.write_bytes(data[: data.index(b"moof") - 4])
    return whole


def huge(folder: Path) -> Path:
    """A PNG of 65,535 × 65,535 pixels by its header."""
    path = folder / "huge.png"
    Image.fromarray(quadrants()).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 65_535, 65_535)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path
