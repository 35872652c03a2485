"""Which cells of a clip are unchanged since they were last encoded, so that their features can be reused.

After Run-Length Tokenization (arXiv 2411.05222), which compares with the step before; here it is the cell last encoded
at the same place, so that slow changes cannot accumulate. All cells of a window are reused, or none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..inputs.patches import MERGE, windows


class TemporalReuse:
    """Takes a clip's temporal steps in order, and holds the cell last encoded at each place.

    `threshold`: mean absolute difference of normalised pixels (1 is about 68 of 255 levels) up to which a cell counts
    as unchanged; None: no cell does. `side`: cells a side of a window.
    """

    def __init__(self, threshold: float | None, side: int = 1) -> None:
        self._threshold, self._side = threshold, side
        self._last: Tensor | None = None  # (N, 4 * 1176) of the N cells of a step

    def changed(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The cells of patches (P, 1176) in a grid (T, H, W) that must be encoded: (T, N) bool."""
        steps, cells = grid[0], grid[1] * grid[2] // MERGE**2
        changed = torch.ones(steps, cells, dtype=torch.bool)
        if self._threshold is None:
            return changed
        of = windows(grid[1] // MERGE, grid[2] // MERGE, self._side)  # (N,)
        for step, new in zip(patches.view(steps, cells, -1), changed, strict=True):
            if self._last is None:
                self._last = step.clone()
                continue
            differs = (step - self._last).abs_().mean(1) > self._threshold
            new.copy_(torch.isin(of, of[differs]))
            self._last[new] = step[new]
        return changed


def sources(new: Tensor) -> Tensor:
    """For each cell of (T, N) bool, the row that holds its features: (T, N) int64.

    The table holds the features last encoded at the N places before these steps, then those of the new cells in order.
    """
    rows = new.shape[1] + new.flatten().cumsum(0).view(new.shape) - 1  # (T, N)
    return torch.where(new, rows, torch.arange(new.shape[1])).cummax(0).values
