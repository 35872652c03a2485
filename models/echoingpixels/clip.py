"""What reading a media file gives: the clip and where it came from. Knows nothing about decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000  # Hz, of Clip.audio


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
    `silent`: there is a sound track, and it is digitally silent over the span that was read.
    """

    path: str
    kind: Literal["video", "audio", "image"]
    container: str
    duration: float | None  # s of the whole file, as it says; None when it does not
    video: VideoTrack | None = None
    audio: AudioTrack | None = None
    silent: bool = False
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A piece of video with sound, on one clock.

    `frames` (F, H, W, 3) uint8 RGB, F = 0 for sound alone; `times` (F,) float64 s, when each frame is first shown, from
    the clip's start; `audio` (S,) float32 mono at 16 kHz, sample 0 at time 0, or None; `duration` s, to where the
    longer of picture and sound ends (0 for a still).
    """

    frames: npt.NDArray[np.uint8]
    times: npt.NDArray[np.float64]
    audio: npt.NDArray[np.float32] | None
    duration: float
    source: Source
