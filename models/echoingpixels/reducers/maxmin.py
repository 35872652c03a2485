"""Greedy max-min choice of tokens, for any number of rows at once. The host does not wait for the device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..inputs.token_stream import TokenStream
from .budget import Floor, Parts, Pool
from .chunked_scoring import BELOW

TOKENS_AT_ONCE = 16_384  # in the rows that one loop picks from
REPEAT = 1e-5  # distances below this are 0: the rounding of a cosine in float32
NEAR = 1e-6  # relative difference of equal distances


def ranked(stream: TokenStream, weight: Tensor | None, parts: Parts) -> Tensor:
    """The distance (B, L) float32 at which each token was chosen, inf for a part's first; -inf for the others."""
    rows, length, width = stream.embeds.shape
    embeds, weights = stream.embeds.reshape(-1, width), None if weight is None else weight.float().flatten()
    found = torch.full((rows * length + 1,), -torch.inf, device=embeds.device)
    at_once = max(1, TOKENS_AT_ONCE // parts.place.shape[1])
    for first in range(0, len(parts.place), at_once):
        part = _rows(parts, slice(first, first + at_once))
        inside = part.place.clamp(max=rows * length - 1)
        far = distances(embeds[inside].float(), None if weights is None else weights[inside])
        found[part.place] = farthest(far, part)
    return found[:-1].view(rows, length).masked_fill(~stream.pool, -torch.inf)


def weights(scores: Tensor, pool: Tensor) -> Tensor:
    """exp of the standardised scores (B, L): (B, L) float32, 1 outside the pool."""
    return standardised(scores, pool).exp()


def standardised(scores: Tensor, pool: Tensor) -> Tensor:
    """Scores (B, L) with mean 0 and spread 1 over each row's pool: (B, L) float32, 0 outside it.

    In a long stream, tokens that did not reach the final pass have far lower scores than all others: they get the
    lowest of these.
    """
    n = pool.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    scores = scores.float().masked_fill(~pool, -torch.inf)
    last = scores.masked_fill(scores < scores.amax(1, keepdim=True) - BELOW / 2, torch.inf).amin(1, keepdim=True)
    scores = torch.where(pool, scores.maximum(last), 0.0)
    centred = torch.where(pool, scores - scores.sum(1, keepdim=True) / n, 0.0)
    variance = (centred.square().sum(1, keepdim=True) / n).clamp(min=torch.finfo(torch.float32).tiny)
    return centred / variance.sqrt()  # of equal scores, too, the gradient is finite


def distances(embeds: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - cosine of all pairs of each row of embeds (R, W, D), times the weight (R, W) of the second: (R, W, W)."""
    unit = F.normalize(embeds, dim=-1)
    far = torch.baddbmm(unit.new_ones(()), unit, unit.transpose(1, 2), alpha=-1)
    far = F.threshold(far, REPEAT, 0.0, inplace=True)
    return far if weight is None else far.mul_(weight[:, None, :])


def farthest(far: Tensor, parts: Parts) -> Tensor:
    """The distance (R, W) at which each token was chosen, by distances far (R, W, W) from a chosen token to another.

    The first choice is the token farthest from its nearest neighbour. `far` is changed.
    """
    mask, (rows, width) = parts.pool.mask, parts.pool.mask.shape
    row = torch.arange(rows, device=far.device)
    far.masked_fill_(~mask[:, :, None], torch.inf).diagonal(dim1=1, dim2=2).fill_(torch.inf)
    alone = far.amin(1).where(mask, -torch.inf)  # distance to the nearest neighbour
    found = torch.full((rows, width), -torch.inf, device=far.device)
    gain = found.masked_fill(mask, torch.inf)  # distance to the nearest chosen token, -inf for a chosen one
    left = [floor.least.clone() for floor in parts.floors]
    for step in range(parts.steps):
        value = gain if step else alone
        best, pick = _highest(value.where(_allowed(value, parts.floors, left), -torch.inf))
        found[row, pick] = torch.where(step < parts.k, torch.inf if not step else best, found[row, pick])
        gain = torch.minimum(gain, far[row, pick])
        gain[row, pick] = -torch.inf
        for floor, least in zip(parts.floors, left, strict=True):
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


def _rows(parts: Parts, rows: slice) -> Parts:
    """Some rows of parts."""
    pool = Pool(*(x[rows] for x in (parts.pool.mask, parts.pool.kind, parts.pool.time)))
    floors = tuple(Floor(floor.group[rows], floor.least[rows]) for floor in parts.floors)
    return replace(parts, place=parts.place[rows], pool=pool, k=parts.k[rows], floors=floors)
