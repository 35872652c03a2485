"""Greedy max-min choice of tokens, for any number of rows at once. The host does not wait for the device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..inputs.farthest import Floor, distances, farthest
from ..inputs.token_stream import TokenStream
from .budget import Parts, Pool
from .chunked_scoring import BELOW

TOKENS_AT_ONCE = 16_384  # in the rows that one loop picks from


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
        found[part.place] = farthest(far, part.pool.mask, part.k, part.steps, part.floors)
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


def _rows(parts: Parts, rows: slice) -> Parts:
    """Some rows of parts."""
    pool = Pool(*(x[rows] for x in (parts.pool.mask, parts.pool.kind, parts.pool.time)))
    floors = tuple(Floor(floor.group[rows], floor.least[rows]) for floor in parts.floors)
    return replace(parts, place=parts.place[rows], pool=pool, k=parts.k[rows], floors=floors)
