"""A media file opened safely: its streams, their packets and their clock.

FFmpeg gets a plain local path, the `file` protocol alone, and only demuxers whose files hold the media themselves:
playlists (HLS, DASH, concat) could name other files.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from ..errors import MediaError, OptionError
from ..options.encoder_keep import OFF

FORMATS = (  # demuxers whose files hold the media themselves
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,kux,mpegts,mpeg,mpegvideo,m4v,ogg,asf,asf_o,rm,nut,mxf,gxf,wtv,nsv,"
    "dv,ivf,h261,h263,h264,hevc,vvc,obu,vc1,dirac,cavsvideo,avs2,avs3,mjpeg,mjpeg_2000,yuv4mpegpipe,gif,apng,webp_anim,swf,flic,"
    "smk,bink,roq,thp,wav,w64,aiff,au,caf,mp3,aac,loas,latm,flac,ac3,eac3,ac4,dts,dtshd,truehd,mlp,ape,tta,tak,wv,mpc,mpc8,"
    "amr,amrnb,amrwb,gsm,voc,sox,shn,oma,dsf,iff,qcp,xwma,xa,ea,aa,aax,spdif"
)
PLAYLISTS = (b"#extm3u", b"ffconcat", b"<mpd", b"<!doctype", b"<html", b"v=0\r", b"v=0\n", b"[playlist]", b"<?xml")
S = TypeVar("S", av.VideoStream, av.AudioStream)
LEAD = Fraction(1, 10)  # s; the priming of a codec alone may start audio this much before the video
FAILED_READS = 64  # in a row, before a file counts as ended
FAILURES = 300  # packets in a row that cannot be decoded, before decoding stops
WAV_CHUNKS, UNSTATED = 64, 0xFFFF_0000  # chunks searched for the sound; sizes that live recorders write from here on
TAIL = 2  # s before the end where the search for the last packets starts, as they are not in order of time
TAIL_PACKETS, TAIL_BYTES = 20_000, 1 << 28  # read at most in the search for the real end of a stream


@dataclass
class Losses:
    """Errors while reading packets."""

    reads: int = 0  # failed ones
    reason: str = ""  # of the last


def check_file(path: str | Path) -> Path:
    """The path of a regular file that is not empty; MediaError for anything else."""
    file = Path(path)
    remote = "Only local files are read: download it first." if "://" in str(path) else "Check the path."
    try:
        info = file.stat()
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {(error.strerror or 'no such file').lower()}.", remote) from None
    except ValueError:
        raise MediaError(f"{str(path)!r} is not a file name.", "Check the path.") from None
    if stat.S_ISDIR(info.st_mode):
        raise MediaError(f"{path} is a folder.", "Give one media file; `ep batch` takes folders.")
    if not stat.S_ISREG(info.st_mode):
        raise MediaError(f"{path} is not a regular file.", "Save the stream to a file first.")
    if info.st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes).", "Copy or download it again.")
    return file


def check_hwaccel(name: str) -> None:
    """OptionError for a hardware decoder that this FFmpeg does not know."""
    known = (OFF, *hwdevices_available())
    if name not in known:
        raise OptionError(f"Unknown hwaccel {name!r}.", f"Known to this FFmpeg: {', '.join(known)}.")


def decodes_in(context: av.VideoCodecContext, hwaccel: str) -> bool:
    """Whether the hardware `hwaccel` decodes the video, as far as is known: certain once a frame is decoded."""
    formats = {c.format.name for c in context.codec.hardware_configs if c.format and c.device_type.name == hwaccel}
    return context.pix_fmt in formats


def open_media(path: Path, hwaccel: str = OFF) -> InputContainer:
    """The opened container; MediaError if the file is not media that this library reads.

    Where the hardware `hwaccel` cannot be opened or cannot decode the video, software decodes: see `decodes_in`.
    """
    head = _head(path)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PLAYLISTS):
        raise MediaError(f"{path} is a playlist or a web page, not media.", "Give the media file itself.")
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    start = partial(av.open, f"file:{path.absolute()}", container_options=options, metadata_errors="replace")
    if hwaccel != OFF:
        with suppress(FFmpegError, ValueError):  # of the device; those of the file come again below
            return start(hwaccel=HWAccel(hwaccel, allow_software_fallback=True))
    try:
        return start()
    except (FFmpegError, ValueError) as error:
        raise MediaError(f"{path} cannot be opened as media: {_reason(error)}.", advice(path)) from None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        what = f"{path} cannot be read: {(error.strerror or 'unknown error').lower()}."
        raise MediaError(what, "Check whether you may read it, and the disk it is on.") from None


def advice(path: Path) -> str:
    """The hint for a file without a decodable stream."""
    head = _head(path)
    if head[4:8] == b"ftyp":
        return "It is an MP4/MOV without a readable index: the recording or download was cut short. Fetch it again."
    if b"\0" not in head:
        return "It looks like text. Give a video, audio or image file."
    return (
        "Give a video, audio or image file; this one may be damaged, or of an unknown type: try converting it to MP4."
    )


def _reason(error: Exception) -> str:
    text = (getattr(error, "strerror", None) or str(error)).lower()
    return "no known media format" if "invalid argument" in text else text


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The default video stream, else the first. Cover art and thumbnails are not video."""
    art = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & art]
    return _default(streams)


def audio_stream(container: InputContainer, track: int | None, name: str) -> av.AudioStream | None:
    """Audio track number `track`, or the default one; OptionError listing the tracks when it does not exist."""
    streams = list(container.streams.audio)
    if track is None:
        return _default(streams)
    if track >= len(streams):
        known = "; ".join(f"{i}: {describe(stream)}" for i, stream in enumerate(streams))
        hint = f"Its tracks: {known}." if streams else "Leave audio_track out."
        raise OptionError(f"{name} has no audio track {track} (it has {len(streams)}, counted from 0).", hint)
    return streams[track]


def _default(streams: list[S]) -> S | None:
    chosen = [stream for stream in streams if stream.disposition & Disposition.default]
    return next(iter(chosen + streams), None)


def describe(stream: av.AudioStream) -> str:
    """Such as `aac, 48000 Hz, 5.1, eng`."""
    context = stream.codec_context
    if context is None:
        return "unknown codec"
    facts = [context.name, f"{context.sample_rate} Hz", context.layout.name, stream.language or ""]
    return ", ".join(fact for fact in facts if fact and fact != "und")


def origin(container: InputContainer, video: av.VideoStream | None, audio: av.AudioStream | None) -> Fraction:
    """The file's time (s) that is the clip's time 0: the start of the earlier of the two streams.

    Audio that starts less than `LEAD` earlier is codec priming, so the start of the video counts.
    """
    known = [s for s in (video, audio) if s is not None and s.start_time is not None]
    starts = {id(s): (s.start_time or 0) * (s.time_base or 1) for s in known}
    if not starts:
        return Fraction(container.start_time or 0, av.time_base)
    first = Fraction(min(starts.values()))
    displayed = Fraction(starts.get(id(video), first))
    return displayed if displayed - first <= LEAD else first


def clock(base: Fraction | None, origin: Fraction) -> Callable[[int], float]:
    """A function from time stamps, in units of `base` s, to seconds after `origin` (s), rounded once."""
    base = base or Fraction(1)
    scale, shift = base.numerator * origin.denominator, origin.numerator * base.denominator
    unit = base.denominator * origin.denominator
    return lambda stamp: (stamp * scale - shift) / unit


def stream_end(stream: av.VideoStream | av.AudioStream, zero: Fraction) -> float | None:
    """The end of this stream as the file states it, in s after `zero`; None if it does not."""
    base = stream.time_base
    if stream.duration and base:
        return float(((stream.start_time or 0) + stream.duration) * base - zero)
    tag = stream.metadata.get("DURATION") or ""  # Matroska: 00:00:10.000000000
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - float(zero)
    except ValueError:
        return None


def comment(container: InputContainer) -> str | None:
    """The comment tag of the file, in upper or lower case."""
    return {key.lower(): value for key, value in container.metadata.items()}.get("comment")


def file_end(container: InputContainer, zero: Fraction) -> float | None:
    """The end of the file as it states it, in s after `zero`; None if it does not."""
    if not container.duration or container.duration < 0:
        return None
    return float(Fraction((container.start_time or 0) + container.duration, av.time_base) - zero)


def states_length(path: Path) -> bool:
    """Whether an MP3 states its length, in a Xing header within its first frame (after ID3's tags and pictures)."""
    with path.open("rb") as file:
        tag = file.read(10)
        if tag[:3] == b"ID3" and len(tag) == 10:
            file.seek(10 + sum(size << shift for size, shift in zip(tag[6:], (21, 14, 7, 0), strict=True)))
        else:
            file.seek(0)
        first = file.read(256)
    return b"Xing" in first or b"Info" in first


def cut_wav_end(path: Path) -> float | None:
    """The length (s) that the header of a cut WAV states; None if it is whole. FFmpeg reports the length present."""
    rate = 0  # bytes/s
    with path.open("rb") as file:
        if file.read(12)[:4] != b"RIFF":
            return None
        for _ in range(WAV_CHUNKS):
            name, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
            if name == b"data":
                present = path.stat().st_size - file.tell()
                return size / rate if rate and present < size < UNSTATED else None
            body = file.read(12) if name == b"fmt " else b""
            rate = int.from_bytes(body[8:], "little") or rate
            file.seek(size + size % 2 - len(body), os.SEEK_CUR)
    return None


def packets(
    container: InputContainer, streams: Sequence[av.VideoStream | av.AudioStream], losses: Losses
) -> Iterator[av.Packet[Any]]:
    """The streams' packets in file order; failed reads are counted and skipped, up to FAILED_READS in a row."""
    failed = 0
    while failed < FAILED_READS:
        try:
            for packet in container.demux(*streams):
                failed = 0
                if packet.size:
                    yield packet
            return
        except IndexError:  # raised by PyAV at the end of a file with streams that its header does not list
            return
        except FFmpegError as error:
            failed += 1
            losses.reads += 1
            losses.reason = _reason(error)


def real_end(path: Path, index: int, declared: float | None, zero: Fraction) -> float | None:
    """The real end of video stream `index` (s after `zero`), from its last packets, without decoding.

    Seeks to the `declared` end where possible, else reads the whole of a small file; None if neither finds it.
    """
    for end in (declared, None) if declared is not None else (None,):
        with open_media(path) as container:
            stream = container.streams[index]
            assert isinstance(stream, av.VideoStream) and stream.time_base
            if end is not None:
                try:
                    container.seek(int((Fraction(end) - TAIL + zero) / stream.time_base), stream=stream)
                except FFmpegError:
                    continue
            last = _last(container, stream)
            if last is not None:
                return float(last - zero)
    return None


def _last(container: InputContainer, stream: av.VideoStream) -> Fraction | None:
    """The end of the last remaining packet, in the stream's time; None if there are none, or too many."""
    base, interval = stream.time_base or Fraction(1), 1 / (stream.average_rate or Fraction(25))
    size, end = 0, None
    for count, packet in enumerate(packets(container, [stream], Losses())):
        size += packet.size
        if count >= TAIL_PACKETS or size > TAIL_BYTES:
            return None
        if packet.pts is not None:
            stop = packet.pts * base + (packet.duration * base if packet.duration else interval)
            end = stop if end is None else max(end, stop)
    return end
