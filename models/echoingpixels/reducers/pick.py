"""Picks, the second part of a reducer: ranks of tokens, from their scores or from their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..backbones.base import Shape
from ..inputs.token_stream import TokenStream
from .budget import PART, Budget
from .maxmin import TOKENS_AT_ONCE, ranked, weights

SEED = 0


class Pick(Protocol):
    """A rule that ranks tokens. Of the text it knows the scores alone."""

    def rank(self, stream: TokenStream, scores: Tensor | None, budget: Budget, keep: float) -> Tensor:
        """Ranks (B, L) float32 from which the budget keeps the highest; -inf for a token that is not picked.

        `scores` (B, L) float32, or None if tokens have none.
        """
        ...

    def flops(self, shape: Shape, pool: int) -> float:
        """Floating-point operations to rank `pool` tokens."""
        ...

    def bytes(self, shape: Shape, tokens: int) -> int:
        """Working memory to rank the pool of a stream of that many tokens."""
        ...


class _Free:
    """A pick without matrix products."""

    def flops(self, shape: Shape, pool: int) -> float:
        """None."""
        return 0.0

    def bytes(self, shape: Shape, tokens: int) -> int:
        """None to speak of."""
        return 0


@dataclass(frozen=True)
class TopK(_Free):
    """The highest scores; without scores the first tokens."""

    def rank(self, stream: TokenStream, scores: Tensor | None, budget: Budget, keep: float) -> Tensor:
        """See `Pick.rank`."""
        return stream.mask.float() if scores is None else scores


@dataclass(frozen=True)
class Even(_Free):
    """Evenly spaced tokens of the pool in stream order, so evenly in time and space, whatever their scores."""

    def rank(self, stream: TokenStream, scores: Tensor | None, budget: Budget, keep: float) -> Tensor:
        """See `Pick.rank`."""
        return evenly(stream, keep).float()


def evenly(stream: TokenStream, keep: float) -> Tensor:
    """The first token of each of k equal stretches of the pool: (B, L) bool."""
    pool = stream.pool
    n = pool.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    k = stream.budget(keep)[:, None]  # (B, 1)
    place = pool.cumsum(1) - 1  # (B, L) index within the pool
    return pool & (((place + 1) * k) // n != (place * k) // n)


@dataclass(frozen=True)
class AtRandom(_Free):
    """Tokens drawn at random, whatever their scores; the same ones for the same stream."""

    seed: int = SEED

    def rank(self, stream: TokenStream, scores: Tensor | None, budget: Budget, keep: float) -> Tensor:
        """See `Pick.rank`."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(stream.mask.shape[1], generator=generator).to(stream.mask.device, non_blocking=True)
        # drawn by index in the pool, so that padding does not change a row's choice
        return drawn[(stream.pool.cumsum(1) - 1).clamp(min=0)]


@dataclass(frozen=True)
class MaxMin:
    """Greedy max-min choice, or k-centre: repeatedly the token farthest from all chosen ones.

    The distance of a token is (1 - cosine) of embeddings times exp(z) of its score z, standardised over the row's pool;
    with `plain` times the score itself. Source: DivPrune (arXiv 2503.02175), Gonzalez (1985).
    """

    plain: bool = False

    def rank(self, stream: TokenStream, scores: Tensor | None, budget: Budget, keep: float) -> Tensor:
        """See `Pick.rank`: the distance at which a token was chosen."""
        if keep >= 1:
            return stream.mask.float()
        weight = scores if scores is None or self.plain else weights(scores, stream.pool)
        return ranked(stream, weight, budget.parts(stream, keep))

    def flops(self, shape: Shape, pool: int) -> float:
        """The product of all pairs of each part."""
        return 2.0 * shape.width * pool * min(pool, PART)

    def bytes(self, shape: Shape, tokens: int) -> int:
        """Embeddings in float32 twice, and the distances of all pairs."""
        width = min(tokens, PART)
        rows = min(-(-tokens // width), TOKENS_AT_ONCE // width)
        return 4 * rows * width * (2 * shape.width + width)
