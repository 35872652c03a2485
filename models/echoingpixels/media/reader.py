"""A media file to a Clip: `stream_clip` yields its pieces, `read_clip` joins them."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from av.error import FFmpegError

from ..errors import MediaError, OptionError
from ..options import MediaOptions, split_keywords
from ..options.encoder_keep import OFF
from .audio import PREROLL
from .blank import UnclearError
from .clip import Clip, Ending, Piece, Pieces, Source, VideoTrack, whole
from .container import check_file, check_hwaccel, comment, file_end, open_media
from .decode import DecodePass, choose
from .host import FrameSize, Host
from .image import read_still
from .sampler import Overrun
from .video import EPS

DEFAULTS = MediaOptions()
SEEK_BACK = (PREROLL, 10.0)  # s before the start where reading begins, before it falls back to the file's beginning


class Reader(Protocol):
    """A function that reads files: `stream_clip`, or the `stream` method of a worker."""

    def __call__(self, path: Path, options: MediaOptions, *, frame_size: FrameSize | None = None) -> Pieces:
        """The pieces of the clip."""


def read_clip(
    path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None, **overrides: Any
) -> Clip:
    """Read a video, an audio file or a still image; `overrides` are fields of MediaOptions.

    `frame_size` returns the (height, width) of the frames kept, such as `model.frame_size`; None keeps their size.

    Frames are those displayed at start + i / fps (s), with the times at which they are first displayed; if they are
    more than `max_frames`, they are sampled more sparsely over the whole span. Audio is mixed to 16 kHz mono on the
    same clock. Memory is bounded by the frames and samples kept. A damaged file returns its readable parts, and
    `source.warnings` lists the losses.

    Raises MediaError if nothing can be read, OptionError if the options do not fit the file.
    """
    return whole(stream_clip(path, options, frame_size=frame_size, **overrides))


def stream_clip(
    path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None, **overrides: Any
) -> Pieces:
    """As `read_clip`, piece by piece: memory holds one piece of a long clip."""
    (changed,) = split_keywords(overrides, MediaOptions)
    return stream(path, replace(options, **changed), Host(frame_size=frame_size))


def stream(path: str | Path, options: MediaOptions, host: Host) -> Pieces:
    """As `stream_clip`, with frames resized by `host`."""
    try:
        check_hwaccel(options.hwaccel)
        file = check_file(path)
        clip = _still(file, options, host)
        yield from _timed(file, options, host) if clip is None else clip.pieces()
    except FFmpegError as error:
        reason = (error.strerror or str(error)).lower()
        raise MediaError(f"{path} cannot be decoded: {reason}.", "Try converting it to MP4.") from error
    except MemoryError:
        if not host.local:  # the worker that set the limit reports it
            raise
        raise MediaError(f"{path} does not fit in memory.", "Scale it down, or read a part of it.") from None


def check_media(path: str | Path) -> None:
    """Raise the MediaError of `read_clip` for a file that is missing, empty or not media; decodes little of it."""
    file = check_file(path)
    try:
        open_media(file).close()
    except MediaError:
        if read_still(file) is None:
            raise


def _still(file: Path, options: MediaOptions, host: Host) -> Clip | None:
    still = read_still(file)
    if still is None:
        return None
    if options.start:
        raise OptionError(f"{file} is a still image: it has no second {options.start:g}.", "Leave start out.")
    pixels, kind, rotation, warnings = still
    track = VideoTrack(kind, None, (pixels.shape[0], pixels.shape[1]), rotation)
    if host.frame_size is not None:
        size = host.frame_size(*track.size, 1, True)
        pixels = pixels if size == track.size else host.resize(pixels, size)
    source = Source(str(file), "image", kind, None, track, warnings=warnings)
    return Clip(pixels[None], np.zeros(1), None, 0.0, source)


def _timed(file: Path, options: MediaOptions, host: Host) -> Pieces:
    """Video or audio, read from shortly before the start, then from further back until one attempt succeeds."""
    backs = [*(back for back in SEEK_BACK if back < (options.start or 0.0)), None]
    hold = False
    while True:
        piece = None
        try:
            for piece in _attempt(file, options, host, backs[0], hold):
                yield piece
        except Overrun:  # the file is longer than it states
            assert not hold, "where all frames are held, none has been returned"
            hold = True
            continue
        except UnclearError:
            host = replace(host, blank=False)
            continue
        if piece is not None and piece.ending is not None:
            return
        del backs[0]
        assert backs, "the last attempt reads from the beginning"


def _attempt(file: Path, options: MediaOptions, host: Host, back: float | None, hold: bool) -> Pieces:
    """One attempt, from `back` s before the start; its first piece `begins`. No ending if that was too late."""
    hwaccel = OFF if host.blank else options.hwaccel
    with open_media(file, hwaccel) as container, closing(choose(file, container, options, host, hold)) as current:
        begins, pieces = True, current.run(back)
        while True:
            try:
                yield replace(next(pieces), begins=begins, expected=current.expected)
            except StopIteration as ended:
                if ended.value:
                    yield replace(_last(current), begins=begins, expected=current.expected)
                return
            begins = False


def _last(current: DecodePass) -> Piece:
    """The remaining frames and samples of a finished pass, with the ending."""
    rest, video, audio = current.rest(), current.video_reader, current.audio_reader
    if current.host.blank and current.losses.reads:
        raise UnclearError
    source = Source(
        path=str(current.file),
        kind="audio" if current.video is None else "video",
        container=current.container.format.name,
        duration=file_end(current.container, current.zero),
        video=current.video_track(),
        audio=current.audio_track(),
        comment=comment(current.container),
        warnings=tuple(current.warnings()),
        notes=tuple(current.notes()),
    )
    has_video, has_audio = video is not None and video.kept > 0, audio is not None and audio.has_samples
    silent = audio is not None and audio.silent
    return replace(rest, ending=_ending(source, has_video, has_audio, silent, current.start, current.end))


def _ending(source: Source, has_video: bool, has_audio: bool, silent: bool, start: float, end: float) -> Ending:
    """The ending, with warnings for missing tracks; `start` is in seconds of the file, `end` in seconds of the clip."""
    name = Path(source.path).name
    if not has_video and not has_audio:
        if math.isfinite(end) and start > 0 and end <= EPS:
            raise OptionError(
                f"start ({start:g} s) is past the end of {name}, which lasts {start + end:.2f} s.",
                "Give an earlier start.",
            )
        why = " ".join(source.warnings) or "No packet could be decoded."
        raise MediaError(f"{source.path} holds no frame or sound that can be read. {why}", "Copy or convert it again.")
    warnings, notes = list(source.warnings), list(source.notes)
    if source.video is not None and not has_video:
        warnings.append("No picture could be read in this part; only the sound is used.")
    if source.audio is not None and not has_audio:
        warnings.append("No sound could be read in this part; only the picture is used.")
    silent = source.audio is not None and has_audio and silent
    if silent:
        notes.append("Its audio track is digitally silent and was left out.")
    return Ending(max(end, 0.0), replace(source, silent=silent, warnings=tuple(warnings), notes=tuple(notes)))
