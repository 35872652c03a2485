"""The distillation targets of the sieve: gradient × input of the full model's answer, alone or with question attention.

The targets need no labels and leave the decoder unchanged. The extractive sieve learns to score tokens before the
question is answered as the full model uses them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..backbones.base import Backbone
from ..inputs.positions import KINDS
from ..inputs.token_stream import TokenStream
from ..reducers.attention import relevant
from ..reducers.cs2 import Sieve


def saliency(backbone: Backbone, stream: TokenStream) -> Tensor:
    """Each token's share (B, L) of the saliency of the full model's answer; a row's pool sums to 1, others are 0.

    |∇ log p(answer) · (embedding − mean embedding)|, with the mean over the pool of the same row and kind. Labels of
    `stream` only mark where the answer tokens are: the explained tokens are the model's most likely ones.
    """
    assert stream.labels is not None
    embeds = stream.embeds.detach().requires_grad_()
    with torch.enable_grad():
        hidden = backbone.hidden(replace(stream, embeds=embeds))
        logits = backbone.logits(hidden[:, :-1][stream.labels[:, 1:] != -100]).float()
        likeliest = logits.max(-1).values - logits.logsumexp(-1)
        (gradient,) = torch.autograd.grad(likeliest.sum(), embeds)
    moved = (gradient.float() * (embeds.detach() - _mean(stream))).sum(-1).abs()
    moved = torch.where(stream.pool, moved, 0.0)
    return moved / moved.sum(1, keepdim=True).clamp(min=1e-12)


def _mean(stream: TokenStream) -> Tensor:
    """The mean embedding (B, L, D) of each token's row and kind."""
    mean = torch.zeros_like(stream.embeds)
    for kind in range(len(KINDS)):
        of = (stream.pool & (stream.kind == kind))[..., None]  # (B, L, 1)
        each = (stream.embeds.detach() * of).sum(1, keepdim=True) / of.sum(1, keepdim=True).clamp(min=1)
        mean = torch.where(of, each, mean)
    return mean


@torch.no_grad()
def agreed(backbone: Backbone, stream: TokenStream) -> Tensor:
    """Shares (B, L) as in `saliency`, of the geometric mean of saliency and question attention.

    Either alone selects worse tokens, saliency most where an answer depends on many tokens (docs/log.md).
    """
    both = (saliency(backbone, stream) * torch.where(stream.pool, relevant(backbone, stream), 0.0)).sqrt()
    return both / both.sum(1, keepdim=True).clamp(min=1e-12)


TARGETS = {"saliency": saliency, "agreed": agreed}


def divergence(shares: Tensor, target: Tensor) -> Tensor:
    """KL(target ‖ shares), mean over rows: both (B, L), each summing to 1 over a row's pool."""
    some = target > 0
    ratio = torch.where(some, target, 1.0).log() - torch.where(some, shares, 1.0).clamp(min=1e-12).log()
    return (target * ratio).sum(1).mean()


def distil_loss(backbone: Backbone, sieve: Sieve, stream: TokenStream, scores: Tensor, target: str) -> Tensor:
    """KL from the sieve's shares, from `scores` (B, L), to those of one of TARGETS; only the sieve learns."""
    return divergence(sieve.shares(scores, stream.pool), TARGETS[target](backbone, stream))
