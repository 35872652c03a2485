"""Greedy max-min choice among rows of vectors: repeatedly the one farthest from all chosen ones.

Source: Gonzalez (1985), k-centre. The host does not wait for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

REPEAT = 1e-5  # distances below this are 0: the rounding of a cosine in float32
NEAR = 1e-6  # relative difference of equal distances


@dataclass(frozen=True)
class Floor:
    """The least number of kept tokens of each of G groups of a row."""

    group: Tensor  # (R, W) int64 in [0, G)
    least: Tensor  # (R, G) int64


def distances(embeds: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - cosine of all pairs of each row of embeds (R, W, D), times the weight (R, W) of the second: (R, W, W)."""
    unit = F.normalize(embeds, dim=-1)
    far = torch.baddbmm(unit.new_ones(()), unit, unit.transpose(1, 2), alpha=-1)
    far = F.threshold(far, REPEAT, 0.0, inplace=True)
    return far if weight is None else far.mul_(weight[:, None, :])


def farthest(far: Tensor, mask: Tensor, k: Tensor, steps: int, floors: tuple[Floor, ...] = ()) -> Tensor:
    """The distance (R, W) at which each token was chosen, by distances far (R, W, W) from a chosen token to another.

    The first choice is the token farthest from its nearest neighbour; inf is its distance, and -inf that of a token
    that is not chosen. `mask` (R, W) bool is False where there is no token. `k` (R,): tokens to choose of each row, at
    most `steps`. `far` is changed.
    """
    rows, width = mask.shape
    row = torch.arange(rows, device=far.device)
    far.masked_fill_(~mask[:, :, None], torch.inf).diagonal(dim1=1, dim2=2).fill_(torch.inf)
    alone = far.amin(1).where(mask, -torch.inf)  # distance to the nearest neighbour
    found = torch.full((rows, width), -torch.inf, device=far.device)
    gain = found.masked_fill(mask, torch.inf)  # distance to the nearest chosen token, -inf for a chosen one
    left = [floor.least.clone() for floor in floors]
    for step in range(steps):
        value = gain if step else alone
        best, pick = _highest(value.where(_allowed(value, floors, left), -torch.inf))
        found[row, pick] = torch.where(step < k, torch.inf if not step else best, found[row, pick])
        gain = torch.minimum(gain, far[row, pick])
        gain[row, pick] = -torch.inf
        for floor, least in zip(floors, left, strict=True):
            least[row, floor.group[row, pick]] -= 1
    return found


def _highest(value: Tensor) -> tuple[Tensor, Tensor]:
    """The highest value (R,) of each row (R, W), and the index (R,) of the first that equals it but for rounding."""
    best = value.amax(1)
    return best, (value >= (best * (1 - NEAR))[:, None]).to(torch.uint8).argmax(1)


def _allowed(value: Tensor, floors: tuple[Floor, ...], left: list[Tensor]) -> Tensor:
    """The tokens (R, W) bool to choose from: those of the first floor that is not reached, or all.

    Values (R, W) of 0 or less, as of exact repeats, are not needed for a floor.
    """
    allowed = torch.ones_like(value, dtype=torch.bool)
    for floor, least in reversed(list(zip(floors, left, strict=True))):
        short = (least > 0).gather(1, floor.group) & (value > 0)
        allowed = torch.where(short.any(1, keepdim=True), short, allowed)
    return allowed
