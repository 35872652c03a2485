"""A clip seen coarsely, at half its height and width, and closely where that pays: in some windows of attention.

Knows cells, windows and scores; nothing about questions or how cells are rated. A coarse cell stands at the place of
the first of the 2 x 2 cells it covers, and gives way to them where they are seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbones.base import Backbone, Features
from ..inputs import patches as F
from ..inputs.prepare import Media, extent_of, media_of, span_of
from ..media.clip import Pieces, whole
from ..media.resize import resize
from ..report import Stopwatch
from .encode import Encoded, encode

SIDE = 2  # cells a side that one coarse cell covers: a quarter of the pixels


@dataclass(frozen=True)
class Glance:
    """What a first look leaves for a second one: the frames (F, h, w, 3) uint8, and the sizes of what was seen."""

    frames: np.ndarray[Any, Any]
    coarse: Media
    whole: Media

    def flops(self, backbone: Backbone, seen: Features) -> float:
        """Floating-point operations of the towers in both looks."""
        return backbone.tower_flops(self.coarse) + backbone.tower_flops(replace(self.whole, mel=None), seen)

    def anew(self, seen: Features) -> dict[str, int]:
        """Cells encoded in both looks, by kind."""
        span, cells = self.coarse.span, 0 if seen.seen is None else int(seen.seen.sum())
        return {"image" if span.image else "video": len(span.times) * span.rows * span.columns + cells}


def glance_at(backbone: Backbone, pieces: Pieces, watch: Stopwatch) -> tuple[Encoded, Glance | None]:
    """The first look at a clip, all frames of which are held for the second.

    A clip without pictures, or with pictures too small for two looks, is encoded as it is: None. Errors as of `encode`.
    """
    with watch.stage("decode"):
        clip = whole(pieces)
    extent = extent_of(clip.pieces())
    media = media_of(span_of(extent, backbone.resolution), extent)
    small, coarse = coarse_size((media.span.rows, media.span.columns)), backbone.resolution.coarse()
    if media.grid is None or coarse.size(*small, extent.expected, media.span.image) != small:
        return encode(backbone, clip.pieces(), watch), None
    with watch.stage("prepare"):
        frames = np.stack([resize(frame, small) for frame in clip.frames])
    first = encode(backbone, replace(clip, frames=frames).pieces(), watch, coarse)
    glance = Glance(clip.frames, first.media, media)
    return replace(first, media=media, features=placed(glance, first.features)), glance


def coarse_size(cells: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) in pixels of the first look at frames of that many cells."""
    height, width = (math.ceil(side / SIDE) * F.FACTOR for side in cells)
    return height, width


def places(media: Media) -> Tensor:
    """Where coarse cells stand: (Nv,) bool."""
    steps, rows, columns = _grid(media)
    there = torch.zeros(steps, rows, columns, dtype=torch.bool)
    there[:, ::SIDE, ::SIDE] = True
    return there.flatten()


def windows(media: Media, side: int) -> Tensor:
    """The number of each cell's window, of `side` x `side` cells of one step: (Nv,) int64."""
    steps, rows, columns = _grid(media)
    in_step = F.windows(rows, columns, side)
    return (torch.arange(steps)[:, None] * (int(in_step.max()) + 1) + in_step).flatten()


def chosen(media: Media, side: int, scores: Tensor, share: float) -> Tensor:
    """The cells (Nv,) bool of that share of the windows, rounded up, that hold the best coarse cells.

    `scores`: (K,) of the coarse cells, in order. The earlier window wins a tie.
    """
    of = windows(media, side)
    best = torch.full((int(of.max()) + 1,), -torch.inf)
    best.scatter_reduce_(0, of[places(media)], scores.float().cpu(), "amax")
    order = best.argsort(descending=True, stable=True)
    return torch.isin(of, order[: math.ceil(share * len(best))])


def placed(glance: Glance, first: Features) -> Features:
    """The first look's features, at the coarse cells' places among those of the whole."""
    assert first.video is not None, "nothing was seen"
    there = places(glance.whole)
    video = first.video.new_zeros(len(there), first.video.shape[1])
    video[there.to(video.device)] = first.video
    return replace(first, video=video, there=there)


def look_closer(backbone: Backbone, glance: Glance, first: Features, cells: Tensor) -> Features:
    """What is there after the second look: the cells (Nv,) bool seen closely, and the coarse ones of other windows."""
    assert first.video is not None and first.there is not None, "a first look comes before"
    steps, rows, columns = _grid(glance.whole)
    of, seen = windows(glance.whole, backbone.window), cells.view(steps, -1)
    video, at_once = first.video.clone(), backbone.steps_at_once(F.MERGE * rows, F.MERGE * columns)
    made = []
    for begin in range(0, steps, at_once):
        part = seen[begin : begin + at_once]
        if bool(part.any()):
            frames = glance.frames[F.STEP * begin : F.STEP * (begin + at_once)]
            patches, grid = F.patches(frames, (rows * F.FACTOR, columns * F.FACTOR))
            made.append(backbone.see_cells(patches, grid, part.flatten()))
    if made:
        video[cells.to(video.device)] = torch.cat(made)
    return replace(first, video=video, there=cells | (first.there & ~torch.isin(of, of[cells])), seen=cells)


def _grid(media: Media) -> tuple[int, int, int]:
    return len(media.span.times), media.span.rows, media.span.columns
