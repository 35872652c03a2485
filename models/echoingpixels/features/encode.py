"""A clip's pieces to the towers' features, chunk by chunk, as in a pipeline: while a GPU sees one chunk, the next one's
patches are cut in a thread, and what comes after is decoded elsewhere. What was seen is dropped.

The chunks are those of `Backbone.see` and `Backbone.hear`, so the features are the same as of a whole clip. Knows
nothing about files or questions.
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

from ..backbones.base import Backbone, Features, joined
from ..inputs import patches as F
from ..inputs.mel import Mel
from ..inputs.prepare import Measure, Media, media_of, span_of
from ..media.clip import Ending, Piece, Pieces
from ..report import Stopwatch


@dataclass(frozen=True)
class Encoded:
    """What the towers made of a clip. Of `media` only sizes are there."""

    media: Media
    features: Features
    ending: Ending


@torch.no_grad()
def encode(backbone: Backbone, pieces: Pieces, watch: Stopwatch, resolution: F.Resolution | None = None) -> Encoded:
    """Run both towers over a clip as it is read; adds to `decode`, `prepare` and `encode`.

    `resolution`: None takes the backbone's.
    MediaError where it becomes no token. Of the sound, what waits to be scaled is held to the end: 51 kB a second.
    """
    resolution = resolution or backbone.resolution
    with closing(pieces), _cutter(backbone.device) as cutter:
        measure, sight, mel = Measure(), _Sight(backbone, watch, cutter, resolution), Mel()
        for piece in _timed(pieces, watch):
            if piece.begins:
                measure, sight, mel = Measure(), _Sight(backbone, watch, cutter, resolution), Mel()
            measure.add(piece)
            sight.add(piece)
            with watch.stage("prepare"):
                mel.add(piece.audio)
        extent = measure.extent()
        media = media_of(span_of(extent, resolution), extent)
        video, seen = sight.features()
    audio, heard = (None, None) if media.mel is None else _hear(backbone, mel, media.mel.shape[1], watch)
    return Encoded(media, Features(video, audio, seen, heard), extent.ending)


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


class _Sight:
    """Frames that wait until there are as many as are seen at once, and the chunk whose patches are being cut."""

    def __init__(self, backbone: Backbone, watch: Stopwatch, cutter: Executor | None, resolution: F.Resolution) -> None:
        self._backbone, self._watch, self._sight, self._cutter = backbone, watch, backbone.sight(), cutter
        self._resolution = resolution
        self._waiting: list[np.ndarray[Any, Any]] = []
        self._size = (0, 0)  # (height, width) at which they are seen
        self._next: Future[tuple[Tensor, tuple[int, int, int]]] | None = None
        self._features: list[tuple[Tensor, Tensor]] = []

    def add(self, piece: Piece) -> None:
        """Take the next frames; when they fill a chunk, see the one before it."""
        if not len(piece.frames):
            return
        height, width = piece.frames.shape[1:3]
        self._size = self._resolution.size(height, width, piece.expected, piece.image)
        self._waiting.append(piece.frames)
        at_once = F.STEP * self._backbone.steps_at_once(*(side // F.PATCH for side in self._size))
        while sum(map(len, self._waiting)) >= at_once:
            held = np.concatenate(self._waiting)
            self._waiting = [held[at_once:].copy()] if len(held) > at_once else []
            self._cut(held[:at_once])

    def features(self) -> tuple[Tensor | None, Tensor | None]:
        """No more frames: the features (Nv, D) of all, and which were made anew if not all; None for none."""
        if self._waiting:
            self._cut(np.concatenate(self._waiting))
        self._see()
        return joined(self._features) if self._features else (None, None)

    def _cut(self, frames: np.ndarray[Any, Any]) -> None:
        """Cut a chunk, and see it; or, where there is a thread for that, the one before it meanwhile."""
        if self._cutter is None:
            with self._watch.stage("prepare"):
                patches, grid = F.patches(frames, self._size)
            self._look(patches, grid)
        else:
            chunk = self._cutter.submit(_pinned_patches, frames, self._size)
            self._see()
            self._next = chunk

    def _see(self) -> None:
        """See the chunk that was cut in a thread, if there is one."""
        if self._next is not None:
            with self._watch.stage("prepare"):
                patches, grid = self._next.result()
            self._next = None
            self._look(patches, grid)

    def _look(self, patches: Tensor, grid: tuple[int, int, int]) -> None:
        with self._watch.stage("encode"):
            self._features.append(self._sight.see(patches, *grid[1:]))


def _pinned_patches(frames: np.ndarray[Any, Any], size: tuple[int, int]) -> tuple[Tensor, tuple[int, int, int]]:
    """Patches that are copied to a GPU while others are cut."""
    patches, grid = F.patches(frames, size)
    return patches.pin_memory() if torch.cuda.is_available() else patches, grid


def _hear(backbone: Backbone, mel: Mel, frames: int, watch: Stopwatch) -> tuple[Tensor, Tensor | None]:
    """The features (Na, D) of the whole sound, and which were made anew if not all."""
    made: list[tuple[Tensor, Tensor]] = []
    parts = mel.parts(backbone.mel_cuts(frames))
    while True:
        with watch.stage("prepare"):
            part = next(parts, None)
        if part is None:
            return joined(made)
        with watch.stage("encode"):
            made.append(backbone.hear(part))
