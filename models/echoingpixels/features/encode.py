"""Encodes a clip's pieces as they are read, chunk by chunk.

While a GPU encodes one chunk, a thread cuts the next one's patches and another process decodes further. Frames are
freed once encoded. The result is the same whether a clip comes whole or in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbones.base import Backbone, Encoding, Features
from ..inputs import patches as F
from ..inputs.mel import Mel
from ..inputs.prepare import Measure, Media, media_of, span_of
from ..media.clip import Ending, Piece, Pieces
from ..report import Stopwatch


@dataclass(frozen=True)
class Encoded:
    """The features of a clip. `media` holds the sizes alone, not the patches and log-mel; `ending` the source facts."""

    media: Media
    features: Features
    ending: Ending


@torch.no_grad()
def encode(backbone: Backbone, pieces: Pieces, watch: Stopwatch) -> Encoded:
    """Run both encoders over a clip as it is read; adds to the stages decode, prepare and encode of `watch`.

    MediaError where the clip gives no token. Audio samples stay in memory until the clip ends: 51 kB/s.
    """
    with closing(pieces), _cutter(backbone.device) as cutter:
        measure, video, mel = Measure(), _Video(backbone, watch, cutter), Mel()
        for piece in _timed(pieces, watch):
            if piece.begins:
                measure, video, mel = Measure(), _Video(backbone, watch, cutter), Mel()
            measure.add(piece)
            video.add(piece)
            with watch.stage("prepare"):
                mel.add(piece.audio)
        extent = measure.extent()
        media = media_of(span_of(extent, backbone.resolution), extent)
        pictures = video.finish()
    sound = [] if media.mel is None else _audio(backbone, mel, media.mel.shape[1], watch)
    return Encoded(media, Features.of(pictures, sound), extent.ending)


def _cutter(device: torch.device) -> AbstractContextManager[Executor | None]:
    """A thread beside a GPU. A CPU has none to spare, and a thread would keep memory of its own."""
    return ThreadPoolExecutor(1) if device.type == "cuda" else nullcontext()


def _timed(pieces: Pieces, watch: Stopwatch) -> Iterator[Piece]:
    while True:
        with watch.stage("decode"):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


class _Video:
    """Holds frames until there are enough for one chunk, and the chunk whose patches are being cut."""

    def __init__(self, backbone: Backbone, watch: Stopwatch, cutter: Executor | None) -> None:
        self._backbone, self._watch, self._cutter = backbone, watch, cutter
        self._encoder = backbone.vision_encoder()
        self._waiting: list[np.ndarray[Any, Any]] = []
        self._size = (0, 0)  # (height, width) at which the frames are encoded
        self._next: Future[tuple[Tensor, tuple[int, int, int]]] | None = None
        self._made: list[Encoding] = []

    def add(self, piece: Piece) -> None:
        """Take the next frames; encode a chunk whenever one is full."""
        if not len(piece.frames):
            return
        height, width = piece.frames.shape[1:3]
        self._size = self._backbone.resolution.size(height, width, piece.expected, piece.image)
        self._waiting.append(piece.frames)
        at_once = F.STEP * self._backbone.steps_at_once(*(side // F.PATCH for side in self._size))
        while sum(map(len, self._waiting)) >= at_once:
            held = np.concatenate(self._waiting)
            self._waiting = [held[at_once:].copy()] if len(held) > at_once else []
            self._cut(held[:at_once])

    def finish(self) -> list[Encoding]:
        """The features of all frames, part by part; none without frames."""
        if self._waiting:
            self._cut(np.concatenate(self._waiting))
        self._encode_next()
        return self._made

    def _cut(self, frames: np.ndarray[Any, Any]) -> None:
        """Cut a chunk's patches and encode it; beside a GPU, encode the chunk before it while a thread cuts."""
        if self._cutter is None:
            with self._watch.stage("prepare"):
                patches, grid = F.patches(frames, self._size)
            self._encode(patches, grid)
        else:
            chunk = self._cutter.submit(_pinned_patches, frames, self._size)
            self._encode_next()
            self._next = chunk

    def _encode_next(self) -> None:
        """Encode the chunk that the thread has cut, if any."""
        if self._next is not None:
            with self._watch.stage("prepare"):
                patches, grid = self._next.result()
            self._next = None
            self._encode(patches, grid)

    def _encode(self, patches: Tensor, grid: tuple[int, int, int]) -> None:
        with self._watch.stage("encode"):
            self._made.append(self._encoder.encode(patches, *grid[1:]))


def _pinned_patches(frames: np.ndarray[Any, Any], size: tuple[int, int]) -> tuple[Tensor, tuple[int, int, int]]:
    """Patches in pinned memory, which a GPU copies while other patches are cut."""
    patches, grid = F.patches(frames, size)
    return patches.pin_memory() if torch.cuda.is_available() else patches, grid


def _audio(backbone: Backbone, mel: Mel, frames: int, watch: Stopwatch) -> list[Encoding]:
    """The features of the whole audio track, part by part."""
    made: list[Encoding] = []
    parts = mel.parts(backbone.mel_cuts(frames))
    while True:
        with watch.stage("prepare"):
            part = next(parts, None)
        if part is None:
            return made
        with watch.stage("encode"):
            made.append(backbone.encode_audio(part))
