"""Any media file to a Clip: `read_clip`. Knows nothing about models, nor how each kind of file is decoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.error import FFmpegError

from ..clip import Clip, Source, VideoTrack
from ..errors import MediaError, OptionError
from ..options import MediaOptions
from .container import check_file, file_end, open_media, picture_stream
from .host import HERE, Host
from .image import read_still
from .reading import SHORTFALL, Reading, choose, window
from .recording import read_recording
from .sound import PREROLL, SILENCE, Samples
from .video import EPS

Reader = Callable[[Path, MediaOptions], Clip]  # such as `read_clip`, or the `read` of a worker
DEFAULTS = MediaOptions()
NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)
SEEK_BACK = (PREROLL, 10.0)  # s before the start to look for a key frame, before reading from the beginning


def read_clip(path: str | Path, options: MediaOptions = DEFAULTS, **overrides: Any) -> Clip:
    """Reads a video, a sound file or a still image; `overrides` are fields of MediaOptions.

    Frames are those on show at start + i / fps (s), with the times at which they are first shown; more than
    `max_frames` are spread over the whole span. Sound is mixed to 16 kHz mono on the same clock. One pass, memory
    bounded by what is kept. Where a file is damaged, what could be read is returned and `source.warnings` says what
    was lost.

    Raises MediaError if nothing can be read, OptionError if the options do not fit the file.
    """
    known = [field.name for field in fields(MediaOptions)]
    for name in overrides:
        if name not in known:
            raise OptionError(f"There is no media option {name!r}.", f"Known: {', '.join(known)}.")
    options = replace(options, **overrides)
    try:
        return read(path, options, HERE)
    except MemoryError:
        raise MediaError(f"{path} does not fit in memory.", "Scale it down, or read a part of it.") from None


def read(path: str | Path, options: MediaOptions, host: Host) -> Clip:
    """As `read_clip`, with frames resized by `host`."""
    file = check_file(path)
    clip = _still(file, options, host)
    if clip is not None:
        return clip
    try:
        return _timed(file, options, host)
    except FFmpegError as error:
        reason = (error.strerror or str(error)).lower()
        raise MediaError(f"{file} cannot be decoded: {reason}.", "Try converting it to MP4.") from error


def check_media(path: str | Path) -> None:
    """Raises the MediaError that `read_clip` would for a file that is missing, empty or not media; decodes little."""
    file = check_file(path)
    try:
        open_media(file).close()
    except MediaError:
        if read_still(file) is None and read_recording(file, 0.0, 0.1) is None:
            raise


def _still(file: Path, options: MediaOptions, host: Host) -> Clip | None:
    still = read_still(file)
    if still is None:
        return None
    if options.start:
        raise OptionError(f"{file} is a still image: it has no second {options.start:g}.", "Leave start out.")
    pixels, kind, turned, warnings = still
    track = VideoTrack(kind, None, (pixels.shape[0], pixels.shape[1]), turned)
    if options.frame_size is not None:
        size = options.frame_size(*track.size)
        pixels = pixels if size == track.size else host.resize(pixels, size)
    source = Source(str(file), "image", kind, None, track, warnings=warnings)
    return Clip(pixels[None], np.zeros(1), None, 0.0, source)


def _timed(file: Path, options: MediaOptions, host: Host) -> Clip:
    """A video, or sound from a file that only FFmpeg can read."""
    start = options.start or 0.0
    for back in (*(back for back in SEEK_BACK if back < start), None):
        try:
            container = open_media(file)
        except MediaError:
            clip = _recording(file, options, None, host)
            if clip is None:
                raise
            return clip
        with container:
            if _recorded(container):
                clip = _recording(file, options, container, host)
                if clip is not None:
                    return clip
            reading = choose(file, container, options, host)
            if reading.run(back):
                return _read(reading)
    raise AssertionError("the last try reads from the beginning")


def _recorded(container: InputContainer) -> bool:
    """Whether to try libsndfile first. Not for MP3: on a damaged file it writes to the terminal and gives up."""
    sound_only = picture_stream(container) is None and len(container.streams.audio) == 1
    return sound_only and container.format.name != "mp3"


def _recording(file: Path, options: MediaOptions, container: InputContainer | None, host: Host) -> Clip | None:
    """A sound-only file through libsndfile; None if it cannot read all of it and FFmpeg (`container`) may do better."""
    if not options.audio or options.audio_track:
        return None
    start, limit = window(options)
    recording = read_recording(file, start, limit, host.beat)
    if recording is None:
        return None
    declared, reached, warnings = recording.duration, start + recording.end, []
    if recording.reason or min(declared, start + limit) - reached > SHORTFALL:
        if container is not None and not recording.final:
            return None
        why = recording.reason or "the file may be cut short"
        warnings.append(f"Decoding the sound stopped at {max(reached, 0):.1f} s of {declared:.1f} s: {why}.")
    source = Source(str(file), "audio", recording.container, declared, audio=recording.track, warnings=tuple(warnings))
    return _clip(NO_FRAMES, np.zeros(0), recording.samples, start, recording.end, source)


def _read(reading: Reading) -> Clip:
    """The clip of a finished pass."""
    frames, times, samples = NO_FRAMES, np.zeros(0), None
    if reading.picture is not None:
        times, frames = reading.picture.finish()
    if reading.sound is not None:
        samples = reading.sound.finish()
    source = Source(
        path=str(reading.file),
        kind="audio" if reading.video is None else "video",
        container=reading.container.format.name,
        duration=file_end(reading.container, reading.zero),
        video=reading.video_track(),
        audio=reading.audio_track(),
        warnings=tuple(reading.warnings()),
        notes=tuple(reading.notes()),
    )
    return _clip(frames, times, samples, reading.start, reading.end, source)


def _clip(
    frames: npt.NDArray[np.uint8],
    times: npt.NDArray[np.float64],
    samples: Samples | None,
    start: float,
    end: float,
    source: Source,
) -> Clip:
    """Puts a clip together and says what it lacks; `start` is in seconds of the file, `end` in seconds of the clip."""
    name = Path(source.path).name
    heard = samples is not None and len(samples) > 0
    if not len(frames) and not heard:
        if math.isfinite(end) and start > 0 and end <= EPS:
            raise OptionError(
                f"start ({start:g} s) is past the end of {name}, which lasts {start + end:.2f} s.",
                "Give an earlier start.",
            )
        why = " ".join(source.warnings) or "No packet could be decoded."
        raise MediaError(f"{source.path} holds no frame or sound that can be read. {why}", "Copy or convert it again.")
    warnings, notes = list(source.warnings), list(source.notes)
    if source.video is not None and not len(frames):
        warnings.append("No picture could be read in this part; only the sound is used.")
    silent = False
    if source.audio is not None and samples is not None:
        if not heard:
            warnings.append("No sound could be read in this part; only the picture is used.")
        elif max(-samples.min(), samples.max()) <= SILENCE:
            silent = True
            notes.append("Its sound track is digitally silent, so it is left out.")
    source = replace(source, silent=silent, warnings=tuple(warnings), notes=tuple(notes))
    return Clip(frames, times, samples if heard and not silent else None, max(end, 0.0), source)
