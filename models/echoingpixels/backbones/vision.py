"""The vision encoder of Qwen2.5-Omni over some of a clip's cells: 2 x 2 patches over two frames, one token each.

transformers' encoder is called with the bounds of its windows and frames, and the positions, of these cells alone.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..options import Reuse
from .kernels import window_bounds
from .temporal_reuse import TemporalReuse, sources


class VisionEncoder:
    """Encodes a clip's temporal steps in order, part by part; unchanged cells reuse the features last encoded there."""

    def __init__(self, encoder: Any, reuse: Reuse = None) -> None:
        self._encoder = encoder
        self._reuse = TemporalReuse(reuse, attending(encoder))
        self._last: Tensor | None = None  # (N, D) features last encoded at each cell of a step

    def encode(self, patches: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Features (Nv, D) of the next steps' patches (P, 1176), `rows` x `columns` in each step.

        And which of them are new, not reused: (Nv,) bool.
        """
        grid = len(patches) // (rows * columns), rows, columns
        new = self._reuse.changed(patches, grid)  # (T, N)
        made = encode_cells(self._encoder, patches, grid, new.flatten())
        last = made.new_zeros(new.shape[1], made.shape[1]) if self._last is None else self._last
        features = torch.cat([last, made])[sources(new).flatten().to(made.device, non_blocking=True)]
        self._last = features[-new.shape[1] :].clone()
        return features, new.flatten()


def window(encoder: Any) -> int:
    """Cells a side of a window of the encoder's attention."""
    side: int = encoder.window_size // encoder.patch_size // encoder.spatial_merge_size
    return side


def attending(encoder: Any) -> int:
    """Cells a side of the region that attends together in most layers: a window, or a whole frame of any size."""
    windowed = 2 * len(encoder.fullatt_block_indexes) < len(encoder.blocks)
    return window(encoder) if windowed else sys.maxsize


def encode_cells(encoder: Any, patches: Tensor, grid: tuple[int, int, int], cells: Tensor) -> Tensor:
    """Features (K, D) of the K cells (Nv,) bool of patches (P, 1176) in a grid (T, H, W).

    They attend to one another as in the whole clip: in their window of a frame, and in some layers in the frame.
    Indices are computed on the CPU: on a GPU the host would wait for each of their sizes.
    """
    from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

    device, unit = encoder.device, encoder.spatial_merge_unit
    size, cells = torch.tensor([grid]), cells.cpu()
    if not bool(cells.any()):
        return torch.empty(0, encoder.config.out_hidden_size, device=device, dtype=encoder.dtype)
    order, edges = get_vision_window_index(size, encoder.spatial_merge_size, encoder.window_size, encoder.patch_size)
    steps = torch.arange(grid[0] + 1) * grid[1] * grid[2]
    chosen = cells.repeat_interleave(unit)  # (P,)
    in_order = cells[order]
    part = patches[chosen.to(patches.device)] if not bool(cells.all()) else patches
    frames, longest = window_bounds(encoder, _bounds(cells, steps, unit))
    windows, longest_window = window_bounds(encoder, _bounds(in_order, edges, unit))
    features: Tensor = encoder(
        part.to(device, non_blocking=True).to(encoder.dtype),
        grid_thw=size,
        position_ids=get_vision_position_ids(size, encoder.spatial_merge_size)[chosen].to(device, non_blocking=True),
        cu_seqlens=frames,
        max_seqlen=longest,
        window_index=(cells.cumsum(0) - 1)[order[in_order]].to(device, non_blocking=True),
        cu_window_seqlens=windows,
        max_window_seqlen=longest_window,
    ).pooler_output
    return features


def _bounds(cells: Tensor, edges: Tensor, unit: int) -> Tensor:
    """Bounds of the stretches of patches between `edges`, counted over the patches of these cells alone."""
    before = F.pad(cells.cumsum(0), (1, 0))[edges.long() // unit] * unit
    bounds: Tensor = torch.unique_consecutive(before)
    return bounds.to(torch.int32)
