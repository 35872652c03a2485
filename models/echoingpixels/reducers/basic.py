"""Reducers that need neither training nor the decoder: baselines and controls for CS2.

Each is `(stream, keep) -> Selection`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..inputs.positions import AUDIO, TEXT
from ..inputs.token_stream import Selection, TokenStream, budget, top_k

SEED = 0
TOKENS_AT_ONCE = 16_384  # compared at once: memory holds no second copy of a long stream


def full(stream: TokenStream, keep: float = 1.0) -> Selection:
    """Every token, for any ratio."""
    return Selection(keep=stream.mask)


def uniform(stream: TokenStream, keep: float) -> Selection:
    """Evenly spaced tokens of the pool in stream order, so evenly in time and space."""
    pool = stream.pool
    n = pool.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    k = budget(pool, keep)[:, None]  # (B, 1)
    place = pool.cumsum(1) - 1  # (B, L) index within the pool
    first_of_bin = ((place + 1) * k) // n != (place * k) // n
    return Selection(keep=(pool & first_of_bin) | (stream.mask & ~pool))


def random(stream: TokenStream, keep: float) -> Selection:
    """Tokens drawn at random from the pool; the same ones for the same stream."""
    generator = torch.Generator().manual_seed(SEED)
    scores = torch.rand(stream.mask.shape[1], generator=generator).to(stream.mask.device)
    # drawn by index in the pool, so that padding does not change a row's choice
    return by_scores(stream, scores[(stream.pool.cumsum(1) - 1).clamp(min=0)], keep)


def repeats(stream: TokenStream, keep: float) -> Selection:
    """Tokens that differ most from their predecessor: 1 - cosine of the embeddings, one pool.

    A video token's predecessor is the token of its grid cell one temporal step earlier, an audio token's the audio
    token before it. Tokens without one, such as a clip's first step, rank first.
    """
    return by_scores(stream, novelty(stream, torch.inf), keep)


def by_scores(stream: TokenStream, scores: Tensor, keep: float) -> Selection:
    """The best of one pool by scores (B, L) float32."""
    chosen = top_k(scores, stream.pool, budget(stream.pool, keep))
    return Selection(keep=chosen | (stream.mask & ~stream.pool), scores=scores)


def novelty(stream: TokenStream, unlike: float) -> Tensor:
    """1 - cosine of each token (B, L) to its predecessor, or `unlike` where it has none."""
    before = _predecessor(stream)  # (B, L)
    rows = torch.arange(len(before), device=before.device)[:, None]  # (B, 1)
    alike = torch.empty_like(stream.time)  # (B, L)
    for first in range(0, alike.shape[1], TOKENS_AT_ONCE):
        part = slice(first, first + TOKENS_AT_ONCE)
        embeds, others = stream.embeds[:, part].float(), stream.embeds[rows, before[:, part].clamp(min=0)].float()
        alike[:, part] = F.cosine_similarity(embeds, others, dim=-1)
    return torch.where(before < 0, unlike, (1 - alike).clamp(min=0.0))


def _predecessor(stream: TokenStream) -> Tensor:
    """The index (B, L) int64 in its row of each token's predecessor, -1 where it has none."""
    row, column = stream.cell.unbind(-1)  # (B, L)
    where = 1 + row * (int(column.max()) + 1) + column  # one number a grid cell, from 1
    where = torch.where(stream.kind == AUDIO, 0, torch.where(stream.kind == TEXT, -1, where))
    order = where.argsort(dim=1, stable=True)  # tokens of one cell side by side, in stream order
    last = order.roll(1, dims=1)
    same = where.gather(1, order) == where.gather(1, last)
    later = stream.time.gather(1, order) > stream.time.gather(1, last)  # False where another clip begins, and for text
    return torch.empty_like(order).scatter_(1, order, torch.where(same & later, last, -1))
