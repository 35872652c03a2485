"""What reading a media file gives: its pieces as they come, the clip they make, and where it came from.

Knows nothing about decoding.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import MediaError

SAMPLE_RATE = 16_000  # Hz, of Clip.audio
PIECE = 16 << 20  # bytes of frames and sound from which on they are handed over, while the rest is still being read
Pixels = npt.NDArray[np.uint8]  # (H, W, 3) or (F, H, W, 3), RGB
Samples = npt.NDArray[np.float32]  # (S,)
NO_AUDIO: Samples = np.zeros(0, np.float32)

S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class VideoTrack:
    """The picture as the file holds it."""

    codec: str
    fps: float | None  # average, 1/s; None when the file does not say
    size: tuple[int, int]  # (height, width) as shown, after `rotation`
    rotation: int = 0  # degrees counterclockwise that were applied to show it upright


@dataclass(frozen=True)
class AudioTrack:
    """The sound as the file holds it."""

    codec: str
    rate: int  # Hz
    channels: int
    layout: str
    index: int = 0  # among the file's audio tracks
    tracks: int = 1  # how many there are
    language: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a clip came from.

    `warnings` say what was lost or could not be trusted; `notes` what is so by nature, such as a missing sound track.
    `silent`: there is a sound track, and it is digitally silent over the span that was read. `comment`: the file's own,
    by which SyncClips are recognised.
    """

    path: str
    kind: Literal["video", "audio", "image"]
    container: str
    duration: float | None  # s of the whole file, as it says; None when it does not
    video: VideoTrack | None = None
    audio: AudioTrack | None = None
    silent: bool = False
    comment: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A piece of video with sound, on one clock.

    `frames` (F, H, W, 3) uint8 RGB, F = 0 for sound alone; `times` (F,) float64 s, when each frame is first shown, from
    the clip's start; `audio` (S,) float32 mono at 16 kHz, sample 0 at time 0, or None; `duration` s, to where the
    longer of picture and sound ends (0 for a still). `expected`: as in Piece; 0 where all frames are as they were.
    """

    frames: Pixels
    times: npt.NDArray[np.float64]
    audio: Samples | None
    duration: float
    source: Source
    expected: int = 0

    def pieces(self) -> Pieces:
        """All of it, as one piece."""
        heard = NO_AUDIO if self.audio is None else self.audio
        ending, expected = Ending(self.duration, self.source), self.expected or len(self.frames)
        yield Piece(self.frames, self.times, heard, begins=True, ending=ending, expected=expected)


@dataclass(frozen=True)
class Ending:
    """What is known of a clip once all of it was read; `duration` and `source` as in Clip."""

    duration: float  # s
    source: Source


@dataclass(frozen=True)
class Piece:
    """The next frames (F, H, W, 3) uint8 with their times (F,) float64 s, and the next samples (S,) float32, of a clip.

    Any of them may be empty, and frames and samples need not be of the same seconds. `begins`: this is the first piece,
    or reading began anew, and what came before is void. The last piece has the `ending`; where its source is silent,
    the samples count for nothing. `expected`: frames of the whole clip, as far as that is known when reading begins;
    their size is chosen for that many (0: for few).
    """

    frames: Pixels
    times: npt.NDArray[np.float64]
    audio: Samples
    begins: bool = False
    ending: Ending | None = None
    expected: int = 0

    @property
    def image(self) -> bool:
        """Whether this is a still, which comes in one piece."""
        return self.ending is not None and self.ending.source.kind == "image"


Pieces = Generator[Piece, None, None]  # to be closed by who does not take all of them


def taken() -> MediaError:
    """What to say of pieces that end without an ending."""
    hint = "Ask all questions of one look at it, or take the whole clip, with read_clip."
    return MediaError("The clip's pieces were taken before, and can be taken once.", hint)


def whole(pieces: Pieces) -> Clip:
    """The clip that pieces make; MediaError where they were taken before."""
    parts: list[Piece] = []
    with closing(pieces):
        for piece in pieces:
            if piece.begins:
                parts.clear()
            parts.append(piece)
    ending = parts[-1].ending if parts else None
    if ending is None:
        raise taken()
    shown = _joined([part.frames for part in parts if len(part.frames)] or [parts[-1].frames])
    times = _joined([part.times for part in parts])
    heard = _joined([part.audio for part in parts if len(part.audio)] or [NO_AUDIO])
    audio = heard if len(heard) and not ending.source.silent else None
    return Clip(shown, times, audio, **vars(ending), expected=parts[-1].expected)


def _joined(parts: list[npt.NDArray[S]]) -> npt.NDArray[S]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
