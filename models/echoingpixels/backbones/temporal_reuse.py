"""Which cells of a clip show what was already seen at their place. Knows pixels, and nothing about towers or tokens.

After Run-Length Tokenization (arXiv 2411.05222), which compares with the step before; here it is the cell that was last
encoded at that place, so that slow changes cannot creep by. What attends together is encoded together: the cells of a
window all repeat, or none does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..inputs.patches import MERGE, windows


class Repeats:
    """Takes a clip's temporal steps in order, and remembers the cell last encoded at each place.

    `threshold`: mean absolute difference of normalised pixels (1 is some 68 of 255 levels) up to which a cell repeats
    that one; None lets none repeat. `side`: cells a side of a window.
    """

    def __init__(self, threshold: float | None, side: int = 1) -> None:
        self._threshold, self._side = threshold, side
        self._last: Tensor | None = None  # (N, 4 * 1176) of the N cells of a step

    def fresh(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Which cells of patches (P, 1176), a grid (T, H, W) of them, are to be encoded: (T, N) bool."""
        steps, cells = grid[0], grid[1] * grid[2] // MERGE**2
        fresh = torch.ones(steps, cells, dtype=torch.bool)
        if self._threshold is None:
            return fresh
        of = windows(grid[1] // MERGE, grid[2] // MERGE, self._side)  # (N,)
        for step, new in zip(patches.view(steps, cells, -1), fresh, strict=True):
            if self._last is None:
                self._last = step.clone()
                continue
            changed = (step - self._last).abs_().mean(1) > self._threshold
            new.copy_(torch.isin(of, of[changed]))
            self._last[new] = step[new]
        return fresh


def sources(fresh: Tensor) -> Tensor:
    """For each cell of (T, N) bool, which row holds its features: (T, N) int64.

    The table has what was last encoded at each of the N places before these steps, then the fresh cells in order.
    """
    rows = fresh.shape[1] + fresh.flatten().cumsum(0).view(fresh.shape) - 1  # (T, N)
    return torch.where(fresh, rows, torch.arange(fresh.shape[1])).cummax(0).values
