"""Clip, its pieces and its source: the result of reading a media file."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import MediaError

SAMPLE_RATE = 16_000  # Hz, of Clip.audio
PIECE = 1 << 20  # bytes of frames and audio in a piece, which is returned while the rest is still being read
Pixels = npt.NDArray[np.uint8]  # (H, W, 3) or (F, H, W, 3), RGB
Samples = npt.NDArray[np.float32]  # (S,)
NO_AUDIO: Samples = np.zeros(0, np.float32)

S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class VideoTrack:
    """The video track of the file."""

    codec: str
    fps: float | None  # average, 1/s; None where the file does not state it
    size: tuple[int, int]  # (height, width) as displayed, after `rotation`
    rotation: int = 0  # degrees counterclockwise, applied to make frames upright


@dataclass(frozen=True)
class AudioTrack:
    """The audio track of the file that was read."""

    codec: str
    rate: int  # Hz
    channels: int
    layout: str
    index: int = 0  # among the audio tracks of the file
    tracks: int = 1  # number of audio tracks
    language: str | None = None


@dataclass(frozen=True)
class Source:
    """The file of a clip.

    `warnings` list losses and unreliable facts; `notes` list properties of the file, such as a missing audio track.
    `silent`: the audio track is digitally silent over the part that was read. `comment`: the comment tag of the file,
    which identifies SyncClips.
    """

    path: str
    kind: Literal["video", "audio", "image"]
    container: str
    duration: float | None  # s of the whole file, as stated in it; None where it is not
    video: VideoTrack | None = None
    audio: AudioTrack | None = None
    silent: bool = False
    comment: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """Video with audio, on one clock.

    `frames` (F, H, W, 3) uint8 RGB, F = 0 for audio alone; `times` (F,) float64 s, when each frame is first displayed,
    from the clip's start; `audio` (S,) float32 mono at 16 kHz, sample 0 at time 0, or None; `duration` s, the end of
    the longer of video and audio (0 for a still image). `expected`: as in Piece; 0 where no frame was resized.
    """

    frames: Pixels
    times: npt.NDArray[np.float64]
    audio: Samples | None
    duration: float
    source: Source
    expected: int = 0

    def pieces(self) -> Pieces:
        """The whole clip as one piece."""
        audio = NO_AUDIO if self.audio is None else self.audio
        ending, expected = Ending(self.duration, self.source), self.expected or len(self.frames)
        yield Piece(self.frames, self.times, audio, begins=True, ending=ending, expected=expected)


@dataclass(frozen=True)
class Ending:
    """The facts that are known once a clip is read to its end; `duration` and `source` as in Clip."""

    duration: float  # s
    source: Source


@dataclass(frozen=True)
class Piece:
    """The next frames (F, H, W, 3) uint8 with their times (F,) float64 s, and the next samples (S,) float32, of a clip.

    Each may be empty, and frames and samples of one piece may belong to different seconds. `begins`: this is the first
    piece, or reading started again, and the pieces before it are void. The last piece has the `ending`; if its source
    is silent, the samples are ignored. `expected`: the number of frames of the whole clip as known when reading begins,
    for which their size is chosen (0: few).
    """

    frames: Pixels
    times: npt.NDArray[np.float64]
    audio: Samples
    begins: bool = False
    ending: Ending | None = None
    expected: int = 0

    @property
    def image(self) -> bool:
        """Whether this is a still image, which is one piece."""
        return self.ending is not None and self.ending.source.kind == "image"


Pieces = Generator[Piece, None, None]  # close it if it is not read to its end


def already_read() -> MediaError:
    """The error for pieces that end without an ending."""
    hint = "Encode the clip once and ask all questions of it, or read the whole clip with read_clip."
    return MediaError("The pieces of this clip have already been read, and can be read once.", hint)


def whole(pieces: Pieces) -> Clip:
    """Join pieces to a clip; MediaError if they have already been read."""
    parts: list[Piece] = []
    with closing(pieces):
        for piece in pieces:
            if piece.begins:
                parts.clear()
            parts.append(piece)
    ending = parts[-1].ending if parts else None
    if ending is None:
        raise already_read()
    frames = _joined([part.frames for part in parts if len(part.frames)] or [parts[-1].frames])
    times = _joined([part.times for part in parts])
    samples = _joined([part.audio for part in parts if len(part.audio)] or [NO_AUDIO])
    audio = samples if len(samples) and not ending.source.silent else None
    return Clip(frames, times, audio, **vars(ending), expected=parts[-1].expected)


def _joined(parts: list[npt.NDArray[S]]) -> npt.NDArray[S]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
