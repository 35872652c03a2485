"""Novelty of a token: 1 - cosine of its embedding to its predecessor in time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..inputs.positions import AUDIO, TEXT
from ..inputs.token_stream import TokenStream

TOKENS_AT_ONCE = 16_384  # compared at once: memory holds no second copy of a long stream


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
    where = 1 + row * (column.max() + 1) + column  # one number a grid cell, from 1
    where = torch.where(stream.kind == AUDIO, 0, torch.where(stream.kind == TEXT, -1, where))
    order = where.argsort(dim=1, stable=True)  # tokens of one cell side by side, in stream order
    last = order.roll(1, dims=1)
    same = where.gather(1, order) == where.gather(1, last)
    later = stream.time.gather(1, order) > stream.time.gather(1, last)  # False where another clip begins, and for text
    return torch.empty_like(order).scatter_(1, order, torch.where(same & later, last, -1))
