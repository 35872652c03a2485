"""A clip to the inputs of the encoders, and the inputs of a prompt.

The values equal those of transformers' Qwen2.5-Omni processor where the frame rate is constant and the audio lasts at
most 300 s. The processor cuts audio at 30,000 mel frames (7,500 audio tokens); this module keeps all of it.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import MediaError
from ..media.clip import Clip, Ending, Piece, Pieces, already_read
from ..report import TokenCounts
from . import patches as F
from .mel import MEL_BINS, log_mel, mel_frames
from .positions import KINDS, TEXT, Placed, Span


@dataclass(frozen=True)
class Media:
    """One clip, audio file or image as input of the two encoders."""

    span: Span
    patches: Tensor | None = None  # (P, 1176) float32
    grid: tuple[int, int, int] | None = None  # patches (T, H, W)
    mel: Tensor | None = None  # (128, M) float32


@dataclass(frozen=True)
class Inputs:
    """One prompt. B is 1 here; streams are padded into batches after embedding."""

    input_ids: Tensor  # (1, L) int64
    positions: Tensor  # (3, 1, L) int64
    kind: Tensor  # (1, L) int64, an index into KINDS
    time: Tensor  # (1, L) float32 s, nan for text
    cell: Tensor  # (1, L, 2) int64
    media: tuple[Media, ...]  # in order of appearance
    labels: Tensor | None = None  # (1, L) int64, -100 outside the answer
    question: Tensor | None = None  # (1, L) bool, tokens of the question itself; None where unknown

    @property
    def pool(self) -> Tensor:
        """(1, L) bool: the audio, video and image tokens."""
        return self.kind != TEXT

    @cached_property
    def media_end(self) -> int:
        """The number of tokens up to the last audio, video or image token."""
        places = self.pool[0].nonzero()
        return int(places[-1]) + 1 if len(places) else 0

    @property
    def counts(self) -> TokenCounts:
        """Numbers of tokens by kind."""
        return TokenCounts(**{name: int((self.kind == i).sum()) for i, name in enumerate(KINDS)})

    def only(self, places: Tensor) -> Inputs:
        """The tokens at `places` (K,), ascending, with all media."""

        def some(x: Tensor | None, dim: int = 1) -> Any:
            return None if x is None else x.index_select(dim, places)

        return replace(
            self,
            input_ids=some(self.input_ids),
            positions=some(self.positions, 2),
            kind=some(self.kind),
            time=some(self.time),
            cell=some(self.cell),
            labels=some(self.labels),
            question=some(self.question),
        )

    def part(self, first: int, last: int) -> Inputs:
        """The tokens from `first` to before `last`, with the media in the first part."""
        return replace(self.only(torch.arange(first, last)), media=() if first else self.media)


def audio_tokens(mel_frames: int) -> int:
    """Number of audio tokens (25 per s) of a number of mel frames (100 per s)."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


@dataclass(frozen=True)
class Extent:
    """The extent of a clip: (height, width) and times (s) of its frames, its number of samples, and its ending.

    `expected`: the number of frames for which their size is chosen, as in Piece.
    """

    size: tuple[int, int]
    times: tuple[float, ...]
    samples: int
    ending: Ending
    expected: int = 0


class Measure:
    """Accumulates the extent of a clip from its pieces."""

    def __init__(self) -> None:
        self._size, self._times, self._samples = (0, 0), list[float](), 0
        self._ending: Ending | None = None
        self._expected = 0

    def add(self, piece: Piece) -> None:
        """Add the next piece."""
        if piece.begins:
            self._size, self._times, self._samples = (0, 0), [], 0
        if len(piece.frames):
            self._size = (piece.frames.shape[1], piece.frames.shape[2])
        self._times += piece.times.tolist()
        self._samples += len(piece.audio)
        self._ending, self._expected = piece.ending, piece.expected

    def extent(self) -> Extent:
        """The extent of all pieces; MediaError if they have already been read."""
        if self._ending is None:
            raise already_read()
        samples = 0 if self._ending.source.silent else self._samples
        return Extent(self._size, tuple(self._times), samples, self._ending, self._expected)


def extent_of(pieces: Pieces) -> Extent:
    """The extent of a clip, whose pieces are read to the end and dropped."""
    measure = Measure()
    with closing(pieces):  # an error in the loop must not leave their reader waiting
        for piece in pieces:
            measure.add(piece)
    return measure.extent()


def prepare_media(clip: Clip, resolution: F.Resolution) -> Media:
    """Patches and log-mel of a clip."""
    span = span_of(extent_of(clip.pieces()), resolution)
    patches, grid, mel = None, None, None
    if span.times:
        patches, grid = F.patches(clip.frames, (span.rows * F.FACTOR, span.columns * F.FACTOR))
    if clip.audio is not None and span.audio_tokens:
        mel = log_mel(clip.audio)
    return Media(span, patches, grid, mel)


def media_of(span: Span, extent: Extent) -> Media:
    """The Media of `prepare_media` without data: shapes only."""
    grid = (len(span.times), F.MERGE * span.rows, F.MERGE * span.columns) if span.times else None
    frames = mel_frames(extent.samples) if span.audio_tokens else None
    return Media(span, None, grid, None if frames is None else torch.empty(MEL_BINS, frames, device="meta"))


def span_of(extent: Extent, resolution: F.Resolution) -> Span:
    """The tokens of a clip, from its extent alone. MediaError if it has none."""
    rows = columns = 0
    source = extent.ending.source
    if extent.times:
        size = resolution.size(*extent.size, extent.expected, source.kind == "image")
        rows, columns = (side // F.FACTOR for side in size)
    audio = audio_tokens(mel_frames(extent.samples)) if extent.samples else 0
    span = Span(extent.times[:: F.STEP], rows, columns, audio, source.kind == "image")
    if not span.tokens:
        sound = "its audio is digitally silent" if source.silent else f"only {extent.ending.duration:.3g} s of audio"
        message = f"{source.path} has no input for the model: no video, and {sound}."
        raise MediaError(message, "Give a longer part of it, or another file.")
    return span


def as_inputs(
    placed: Placed, media: tuple[Media, ...], labels: Tensor | None = None, question: Tensor | None = None
) -> Inputs:
    """Add the batch dimension to a prompt, its labels (L,) and the mask of its question's tokens (L,)."""
    return Inputs(
        input_ids=placed.ids[None],
        positions=placed.positions[:, None],
        kind=placed.kind[None],
        time=placed.time[None],
        cell=placed.cell[None],
        media=media,
        labels=None if labels is None else labels[None],
        question=None if question is None else question[None],
    )
