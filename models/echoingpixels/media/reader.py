"""Any media file to a Clip: `stream_clip`, which `read_clip` folds.

Knows nothing about models, nor how each kind of file is decoded.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from av.error import FFmpegError

from ..errors import MediaError, OptionError
from ..options import MediaOptions, from_keywords
from .audio import PREROLL
from .blank import UnclearError
from .clip import Clip, Ending, Piece, Pieces, Source, VideoTrack, whole
from .container import check_file, comment, file_end, open_media
from .decode import Reading, choose
from .host import FrameSize, Host
from .image import read_still
from .sampler import Overrun
from .video import EPS

DEFAULTS = MediaOptions()
SEEK_BACK = (PREROLL, 10.0)  # s before the start to look for a key frame, before reading from the beginning


class Reader(Protocol):
    """Reads a file: `stream_clip`, or the `stream` of a worker."""

    def __call__(self, path: Path, options: MediaOptions, *, frame_size: FrameSize | None = None) -> Pieces:
        """The pieces of the clip."""


def read_clip(
    path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None, **overrides: Any
) -> Clip:
    """Reads a video, a sound file or a still image; `overrides` are fields of MediaOptions.

    `frame_size` returns the (height, width) of the frames kept, such as `model.frame_size`; None keeps their size.

    Frames are those on show at start + i / fps (s), with the times at which they are first shown; more than
    `max_frames` are spread over the whole span. Sound is mixed to 16 kHz mono on the same clock. One pass, memory
    bounded by what is kept. Where a file is damaged, what could be read is returned and `source.warnings` says what
    was lost.

    Raises MediaError if nothing can be read, OptionError if the options do not fit the file.
    """
    return whole(stream_clip(path, options, frame_size=frame_size, **overrides))


def stream_clip(
    path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None, **overrides: Any
) -> Pieces:
    """What `read_clip` reads and raises, piece by piece: of a long clip memory holds one of them."""
    return stream(path, from_keywords(MediaOptions, {**vars(options), **overrides}), Host(frame_size=frame_size))


def stream(path: str | Path, options: MediaOptions, host: Host) -> Pieces:
    """As `stream_clip`, with frames resized by `host`."""
    try:
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
    """Raises the MediaError that `read_clip` would for a file that is missing, empty or not media; decodes little."""
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
    pixels, kind, turned, warnings = still
    track = VideoTrack(kind, None, (pixels.shape[0], pixels.shape[1]), turned)
    if host.frame_size is not None:
        size = host.frame_size(*track.size, 1, True)
        pixels = pixels if size == track.size else host.resize(pixels, size)
    source = Source(str(file), "image", kind, None, track, warnings=warnings)
    return Clip(pixels[None], np.zeros(1), None, 0.0, source)


def _timed(file: Path, options: MediaOptions, host: Host) -> Pieces:
    """A video or sound: read from a key frame before the start, then from further back until one attempt succeeds."""
    backs = [*(back for back in SEEK_BACK if back < (options.start or 0.0)), None]
    hold = False
    while True:
        piece = None
        try:
            for piece in _attempt(file, options, host, backs[0], hold):
                yield piece
        except Overrun:  # as if it were longer than it says
            assert not hold, "where all frames are held, none has been handed over"
            hold = True
            continue
        except UnclearError:
            host = replace(host, blank=False)
            continue
        if piece is not None and piece.ending is not None:
            return
        del backs[0]
        assert backs, "the last try reads from the beginning"


def _attempt(file: Path, options: MediaOptions, host: Host, back: float | None, hold: bool) -> Pieces:
    """One try, from `back` s before the start, which its first piece `begins`; no ending if that was too late."""
    with open_media(file) as container:
        reading = choose(file, container, options, host, hold)
        begins, run = True, reading.run(back)
        while True:
            try:
                yield replace(next(run), begins=begins, expected=reading.expected)
            except StopIteration as ended:
                if ended.value:
                    yield replace(_last(reading), begins=begins, expected=reading.expected)
                return
            begins = False


def _last(reading: Reading) -> Piece:
    """The rest of a finished pass, and what is known of the whole."""
    rest, picture, sound = reading.rest(), reading.picture, reading.sound
    if reading.host.blank and reading.losses.reads:
        raise UnclearError
    source = Source(
        path=str(reading.file),
        kind="audio" if reading.video is None else "video",
        container=reading.container.format.name,
        duration=file_end(reading.container, reading.zero),
        video=reading.video_track(),
        audio=reading.audio_track(),
        comment=comment(reading.container),
        warnings=tuple(reading.warnings()),
        notes=tuple(reading.notes()),
    )
    seen, heard = picture is not None and picture.kept > 0, sound is not None and sound.heard
    silent = sound is not None and sound.silent
    return replace(rest, ending=_ending(source, seen, heard, silent, reading.start, reading.end))


def _ending(source: Source, seen: bool, heard: bool, silent: bool, start: float, end: float) -> Ending:
    """Says what a clip lacks; `start` is in seconds of the file, `end` in seconds of the clip."""
    name = Path(source.path).name
    if not seen and not heard:
        if math.isfinite(end) and start > 0 and end <= EPS:
            raise OptionError(
                f"start ({start:g} s) is past the end of {name}, which lasts {start + end:.2f} s.",
                "Give an earlier start.",
            )
        why = " ".join(source.warnings) or "No packet could be decoded."
        raise MediaError(f"{source.path} holds no frame or sound that can be read. {why}", "Copy or convert it again.")
    warnings, notes = list(source.warnings), list(source.notes)
    if source.video is not None and not seen:
        warnings.append("No picture could be read in this part; only the sound is used.")
    if source.audio is not None and not heard:
        warnings.append("No sound could be read in this part; only the picture is used.")
    silent = source.audio is not None and heard and silent
    if silent:
        notes.append("Its sound track is digitally silent, so it is left out.")
    return Ending(max(end, 0.0), replace(source, silent=silent, warnings=tuple(warnings), notes=tuple(notes)))
