"""A clip as a page shows it: its frames, sound and spectrogram, and the grid of its tokens."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from ..inputs.patches import STEP
from ..inputs.positions import Span
from ..media.clip import Clip
from .pictures import jpeg, jpegs, spectrogram
from .sound import mp3


@dataclass(frozen=True)
class ClipView:
    """A clip for display; images and audio in base64, times in s from its start.

    `times`: of the frames, of which `frames_per_step` belong to one temporal step. A step has `rows` x `columns` video
    tokens. The spectrogram covers `spectrogram_s` s and has the columns of `audio_tokens` tokens.
    """

    duration: float
    times: tuple[float, ...]
    frames: tuple[str, ...]  # JPEG
    height: int  # pixels of a frame
    width: int
    frames_per_step: int
    rows: int
    columns: int
    still: bool
    sound: str | None  # MP3
    spectrogram: str | None  # JPEG
    spectrogram_s: float
    audio_tokens: int


def view_of(clip: Clip, span: Span) -> ClipView:
    """The picture of a clip whose tokens are those of `span`; its frames may be larger than the model's."""
    sound = spectrogram(clip)
    return ClipView(
        duration=clip.duration,
        times=tuple(clip.times.tolist()),
        frames=tuple(_base64(frame) for frame in jpegs(clip.frames)),
        height=clip.frames.shape[1],
        width=clip.frames.shape[2],
        frames_per_step=STEP,
        rows=span.rows,
        columns=span.columns,
        still=span.image,
        sound=None if clip.audio is None or sound is None else _base64(mp3(clip.audio)),
        spectrogram=None if sound is None else _base64(jpeg(sound[0])),
        spectrogram_s=0.0 if sound is None else sound[1],
        audio_tokens=span.audio_tokens,
    )


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
