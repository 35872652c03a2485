"""One decoding pass over a container: video and audio side by side, on one clock."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from ..errors import MediaError, OptionError
from ..options import MediaOptions
from ..options.encoder_keep import OFF
from .audio import JITTER, AudioReader
from .blank import BlankConverter, PacketTimes
from .clip import NO_AUDIO, PIECE, AudioTrack, Piece, VideoTrack
from .container import (
    Losses,
    advice,
    audio_stream,
    cut_wav_end,
    decodes_in,
    file_end,
    origin,
    packets,
    real_end,
    states_length,
    stream_end,
    video_stream,
)
from .host import Host
from .rgb import FrameConverter
from .video import EPS, VideoReader

NO_FRAMES, NO_TIMES = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
OVERRUN = 10.0  # s past the clip's end after which a stream that has not reached it is abandoned
SHORTFALL = 0.25  # s missing at the end before a warning
# Formats that do not state their length: FFmpeg guesses it from the bit rate.
ESTIMATED = ("aac", "mp3", "ac3", "eac3", "dts", "loas", "amr", "h264", "hevc", "mpegvideo", "m4v", "obu")


@dataclass
class DecodePass:
    """The streams chosen from one file, their readers, and the warnings and notes about them."""

    file: Path
    container: InputContainer
    start: float  # s of the file
    limit: float  # s of the clip, or infinity
    zero: Fraction  # time stamp (s) of the file's beginning
    video: av.VideoStream | None
    audio: av.AudioStream | None
    video_reader: VideoReader | None
    audio_reader: AudioReader | None
    undecodable: list[str]  # streams without a decoder
    host: Host
    options: MediaOptions
    hold: bool  # no frame is returned before the end
    expected: int  # largest number of frames that will be kept
    losses: Losses = field(default_factory=Losses)

    def run(self, back: float | None) -> Generator[Piece, None, bool]:
        """Read from `back` s before the start (None: the file's beginning); False if that was not early enough.

        Yields pieces of PIECE bytes; `rest` returns the remainder.
        """
        origin = self.zero + Fraction(self.start)
        if back is not None:
            try:
                self.container.seek(max(int((origin - Fraction(back)) * av.time_base), 0))
            except FFmpegError:
                return False
        streams = [stream for stream in (self.video, self.audio) if stream is not None]
        overrun = float(origin) + self.limit + OVERRUN
        ends = {stream.index: overrun / float(stream.time_base or 1) for stream in streams}  # in the stream's units
        readers = [reader for reader in (self.video_reader, self.audio_reader) if reader is not None]
        for packet in packets(self.container, streams, self.losses):
            self.host.beat()
            if packet.stream is self.video and self.video_reader is not None:
                self.video_reader.feed(packet)
            elif self.audio_reader is not None:
                self.audio_reader.feed(packet)
            if back is not None and self._late(started=True):
                return False
            if self._ready >= PIECE:
                yield self.drain()
            if all(reader.done for reader in readers):
                break
            if packet.dts is not None and packet.dts > ends[packet.stream_index]:
                break
        return back is None or not self._late(started=False)

    @property
    def _ready(self) -> int:
        """Bytes that `drain` would return."""
        readers = (None if self.hold else self.video_reader, self.audio_reader)
        return sum(reader.ready for reader in readers if reader is not None)

    def close(self) -> None:
        """End the threads of the readers."""
        if self.video_reader is not None:
            self.video_reader.converter.close()

    def drain(self) -> Piece:
        """The frames and samples that are final by now."""
        times, frames = (NO_TIMES, NO_FRAMES) if self.hold or self.video_reader is None else self.video_reader.drain()
        return Piece(frames, times, NO_AUDIO if self.audio_reader is None else self.audio_reader.drain())

    def rest(self) -> Piece:
        """No more packets: the frames and samples not yet returned."""
        times, frames = (NO_TIMES, NO_FRAMES) if self.video_reader is None else self.video_reader.finish()
        return Piece(frames, times, NO_AUDIO if self.audio_reader is None else self.audio_reader.finish())

    def _late(self, started: bool) -> bool:
        """Whether a seek landed after the clip's start; `started`: streams without a packet so far may follow."""
        for reader, slack in ((self.video_reader, EPS), (self.audio_reader, JITTER)):
            if reader is not None and (not started if reader.first is None else reader.first > slack):
                return True
        return False

    @property
    def end(self) -> float:
        """The end of the longer of video and audio, in s of the clip; minus infinity if nothing was decoded."""
        return max(reader.end for reader in (self.video_reader, self.audio_reader) if reader is not None)

    def video_track(self) -> VideoTrack | None:
        """The facts of the video track."""
        if self.video is None or self.video_reader is None:
            return None
        rate, converter = self.video.average_rate or self.video.guessed_rate, self.video_reader.converter
        size = converter.shape or (self.video.height, self.video.width)
        return VideoTrack(self.video.codec_context.name, float(rate) if rate else None, size, converter.rotation)

    def audio_track(self) -> AudioTrack | None:
        """The facts of the audio track."""
        if self.audio is None:
            return None
        context, tracks = self.audio.codec_context, self.container.streams.audio
        return AudioTrack(
            codec=context.name,
            rate=context.sample_rate,
            channels=context.layout.nb_channels,
            layout=context.layout.name,
            index=tracks.index(self.audio),
            tracks=len(tracks),
            language=None if self.audio.language == "und" else self.audio.language,
        )

    def notes(self) -> list[str]:
        """Properties of the file that affect the answer."""
        notes = [] if self.container.streams.audio else ["It has no audio track."]
        aspect = self.video.sample_aspect_ratio if self.video is not None else None
        if aspect and aspect != 1:
            notes.append(f"Its pixels are not square ({aspect}); the picture is used as stored.")
        if self.video_reader is not None and self.video_reader.converter.hdr:
            notes.append("It is HDR video, used without tone mapping: colours look flatter than on an HDR screen.")
        hwaccel = OFF if self.video is None or self.host.blank else self.options.hwaccel
        if hwaccel != OFF and self.video is not None and not decodes_in(self.video.codec_context, hwaccel):
            notes.append(f"The hardware decoder {hwaccel} cannot be used here or for this video; software decoded it.")
        if self.video_reader is not None and self.video_reader.apart is not None:
            most, fps = self.options.max_frames, self.options.fps
            rate = f"one every {self.video_reader.apart:.3g} s in place of {fps:g} a second"
            notes.append(f"At most {most} frames are taken, {rate}; --max-frames allows more.")
        return notes

    def warnings(self) -> list[str]:
        """Losses: damaged packets, gaps, and streams that end before their stated end."""
        warnings, ends, stated = list(self.undecodable), [], False
        guessed = self.container.format.name in ESTIMATED and not states_length(self.file)
        for name, stream, reader in (
            ("picture", self.video, self.video_reader),
            ("sound", self.audio, self.audio_reader),
        ):
            if stream is None or reader is None:
                continue
            ends.append(reader.end)
            if reader.damaged:
                why = f" ({reader.reason})" if reader.reason else ""
                warnings.append(f"Damaged packets of {name} skipped: {reader.damaged} of {reader.packets}{why}.")
            declared = None if guessed else stream_end(stream, self.zero)
            if self.container.format.name == "wav":
                declared = cut_wav_end(self.file) or declared
            stated = stated or declared is not None
            warnings += _shortfall(
                name, reader.end, self.start, self.limit, declared, self.losses.reason or reader.reason
            )
        if self.audio_reader is not None and self.audio_reader.missing > SHORTFALL:
            warnings.append(f"Gaps of {self.audio_reader.missing:.1f} s in the sound were filled with silence.")
        if not stated and len(self.container.streams) == len(ends):
            declared = None if guessed else file_end(self.container, self.zero)
            warnings += _shortfall("content", max(ends), self.start, self.limit, declared, self.losses.reason)
        return warnings


def _shortfall(name: str, end: float, start: float, limit: float, declared: float | None, trouble: str) -> list[str]:
    """The warning for a stream that ends (`end`, s of the clip) well before its `declared` end (s of the file)."""
    reached = max(end + start, 0.0)
    if declared is None:
        stopped = trouble and name == "content"
        return [f"Reading stopped at {reached:.1f} s: {trouble}."] if stopped else []
    if min(declared, start + limit) - start - end <= (0.2 if trouble else SHORTFALL):
        return []
    why = trouble or "the file may be cut short"
    return [f"Decoding the {name} stopped at {reached:.1f} s of {declared:.1f} s: {why}."]


def window(options: MediaOptions) -> tuple[float, float]:
    """The start of the clip (s of the file) and its largest duration (s, or infinity)."""
    start = float(options.start or 0)
    return start, math.inf if options.end is None else round(options.end - start, 9)


def choose(file: Path, container: InputContainer, options: MediaOptions, host: Host, hold: bool) -> DecodePass:
    """Select the streams to read and make their readers. MediaError when there is nothing to decode."""
    start, limit = window(options)
    video, default = video_stream(container), audio_stream(container, None, file.name)
    audio = audio_stream(container, options.audio_track, file.name) if options.audio else None
    zero = origin(container, video, default)
    undecodable: list[str] = []
    for name, stream in (("picture", video), ("sound", audio)):
        if stream is not None and stream.codec_context is None:
            undecodable.append(f"The {name} is in a format that this FFmpeg cannot decode.")
    video = video if video is not None and video.codec_context is not None else None
    audio = audio if audio is not None and audio.codec_context is not None else None
    if video is None and audio is None:
        if container.streams.audio and not options.audio:
            raise OptionError(f"{file} holds only sound, and audio is off.", "Leave --no-audio out.")
        found = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        hint = " ".join(undecodable) or advice(file)
        raise MediaError(f"{file} has no picture or sound to decode (it holds: {found}).", hint)
    begin = zero + Fraction(start)
    video_reader, audio_reader, expected = None, None, 0
    if video is not None:
        span = _span(file, container, video, zero, start, limit, options)
        expected = options.max_frames
        if span is not None and not hold:  # frames are held where there are more than the file states
            expected = min(expected, math.ceil(span * options.fps))
        times = PacketTimes(video) if host.blank else None
        how = host.frame_size, expected, host.resize
        converter = FrameConverter(*how) if times is None else BlankConverter(times, *how)
        video_reader = VideoReader(video, begin, limit, span, options.fps, options.max_frames, converter, times)
    if audio is not None:
        audio_reader = AudioReader(audio, begin, limit)
    return DecodePass(
        file=file,
        container=container,
        start=start,
        limit=limit,
        zero=zero,
        video=video,
        audio=audio,
        video_reader=video_reader,
        audio_reader=audio_reader,
        undecodable=undecodable,
        host=host,
        options=options,
        hold=hold,
        expected=expected,
    )


def _span(
    file: Path,
    container: InputContainer,
    video: av.VideoStream,
    zero: Fraction,
    start: float,
    limit: float,
    options: MediaOptions,
) -> float | None:
    """Duration (s) of the video within the clip, or None.

    Stated durations may be wrong: where the result decides the sampling rate, the last packets are read.
    """
    declared = stream_end(video, zero) or file_end(container, zero)
    if declared is None or min(declared - start, limit) * options.fps > options.max_frames:
        declared = real_end(file, video.index, declared, zero)
    if declared is None or declared <= start:
        return None
    return min(declared - start, limit)
