"""The vision tower of Qwen2.5-Omni over some of a clip's cells: of 2 x 2 patches over two frames, a token each.

The tower itself is called, with the bounds of its windows and frames, and the patches' places, counted for these cells.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import window_bounds
from .temporal_reuse import Repeats, sources


class Sight:
    """Sees a clip's temporal steps in order, part by part; cells that repeat take the features of those they repeat."""

    def __init__(self, tower: Any, threshold: float | None = None) -> None:
        self._tower = tower
        self._repeats = Repeats(threshold, attending(tower))
        self._last: Tensor | None = None  # (N, D) features last made at each place of a step

    def see(self, patches: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Features (Nv, D) of the next steps' patches (P, 1176), so many rows and columns of them in each.

        And which were made anew: (Nv,) bool.
        """
        grid = len(patches) // (rows * columns), rows, columns
        fresh = self._repeats.fresh(patches, grid)  # (T, N)
        made = see_cells(self._tower, patches, grid, fresh.flatten())
        last = made.new_zeros(fresh.shape[1], made.shape[1]) if self._last is None else self._last
        features = torch.cat([last, made])[sources(fresh).flatten().to(made.device, non_blocking=True)]
        self._last = features[-fresh.shape[1] :].clone()
        return features, fresh.flatten()


def window(tower: Any) -> int:
    """Cells a side of a window of the tower's attention."""
    side: int = tower.window_size // tower.patch_size // tower.spatial_merge_size
    return side


def attending(tower: Any) -> int:
    """Cells a side of what attends together in most layers: a window, or a whole frame of any size."""
    return window(tower) if 2 * len(tower.fullatt_block_indexes) < len(tower.blocks) else sys.maxsize


def see_cells(tower: Any, patches: Tensor, grid: tuple[int, int, int], cells: Tensor) -> Tensor:
    """Features (K, D) of the K cells (Nv,) bool of patches (P, 1176) in a grid (T, H, W).

    They attend to one another as in the whole: within their window of a frame, and in some layers within the frame.
    Indices are computed on the CPU: on a GPU the host would wait for each of their sizes.
    """
    from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

    device, unit = tower.device, tower.spatial_merge_unit
    size, cells = torch.tensor([grid]), cells.cpu()
    if not bool(cells.any()):
        return torch.empty(0, tower.config.out_hidden_size, device=device, dtype=tower.dtype)
    order, edges = get_vision_window_index(size, tower.spatial_merge_size, tower.window_size, tower.patch_size)
    steps = torch.arange(grid[0] + 1) * grid[1] * grid[2]
    there = cells.repeat_interleave(unit)  # (P,)
    in_order = cells[order]
    part = patches[there.to(patches.device)] if not bool(cells.all()) else patches
    frames, longest = window_bounds(tower, _bounds(cells, steps, unit))
    windows, longest_window = window_bounds(tower, _bounds(in_order, edges, unit))
    features: Tensor = tower(
        part.to(device, non_blocking=True).to(tower.dtype),
        grid_thw=size,
        position_ids=get_vision_position_ids(size, tower.spatial_merge_size)[there].to(device, non_blocking=True),
        cu_seqlens=frames,
        max_seqlen=longest,
        window_index=(cells.cumsum(0) - 1)[order[in_order]].to(device, non_blocking=True),
        cu_window_seqlens=windows,
        max_window_seqlen=longest_window,
    ).pooler_output
    return features


def _bounds(cells: Tensor, edges: Tensor, unit: int) -> Tensor:
    """Where stretches of patches that begin and end at `edges` do so when only those of these cells are there."""
    before = F.pad(cells.cumsum(0), (1, 0))[edges.long() // unit] * unit
    bounds: Tensor = torch.unique_consecutive(before)
    return bounds.to(torch.int32)
