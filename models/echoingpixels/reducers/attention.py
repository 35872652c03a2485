"""Reducers that need no training and read the attention weights of the decoder's first layers.

Each is `(backbone, stream, keep) -> Selection`. The kept tokens then enter the decoder as embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ..backbones.base import Backbone, Shape
from ..backbones.sizes import layer_flops
from ..inputs.token_stream import Selection, TokenStream, budget
from .basic import by_scores, novelty
from .chunked_scoring import Where, scored

LAYERS = 2  # decoder layers whose attention is read
COVERED = 0.25  # share of relevance's budget that is spread evenly over windows of time
WINDOW_S = 2.0  # the model's own chunk of interleaved video and audio


def fastv(backbone: Backbone, stream: TokenStream, keep: float) -> Selection:
    """Attention of the prompt's last token in layer 2, mean over heads: FastV's score, as in its code.

    Source: FastV (arXiv 2403.06764), which drops the other tokens from that layer on; here only its score is used.
    """
    if not bool(stream.pool.any()):
        return Selection(keep=stream.mask)

    def score(part: TokenStream, _: Where) -> Tensor:
        last = torch.zeros_like(part.mask)
        last[:, -1] = True
        blocks = list(backbone.attention_of(part, last, LAYERS))[-1]
        return next(blocks)[:, :, 0].mean(1)

    return by_scores(stream, scored(stream, score), keep)


def relevance(backbone: Backbone, stream: TokenStream, keep: float) -> Selection:
    """Question attention above its mean, weighted by each token's difference from the token before it in its cell.

    One pool of audio and video; a COVERED share of the budget goes evenly to the best tokens of each window of time, so
    that no stretch of the clip is missing.
    """
    if not bool(stream.pool.any()):
        return Selection(keep=stream.mask)
    scores = relevant(backbone, stream)
    return replace(
        by_scores(stream, scores.masked_fill(_outline(stream, scores, keep), torch.inf), keep), scores=scores
    )


def _outline(stream: TokenStream, scores: Tensor, keep: float) -> Tensor:
    """The best tokens of each window by scores (B, L), an equal number for each window: (B, L) bool.

    A token with score 0, such as an exact repeat of its neighbour, is never among them.
    """
    window = torch.where(stream.pool, stream.time / WINDOW_S, -1.0).floor()  # (B, L)
    order = scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, window.gather(1, order).argsort(dim=1, stable=True))  # window by window, the best first
    window = window.gather(1, order)
    begins = window != window.roll(1, dims=1)
    begins[:, 0] = True
    place = torch.arange(window.shape[1], device=window.device).expand_as(order)
    rank = place - torch.where(begins, place, 0).cummax(1).values
    windows = (begins & (window >= 0)).sum(1).clamp(min=1)  # (B,)
    share = (COVERED * budget(stream.pool, keep) / windows).floor()[:, None]
    return torch.zeros_like(stream.pool).scatter_(1, order, (rank < share) & (window >= 0)) & (scores > 0)


def relevant(backbone: Backbone, stream: TokenStream) -> Tensor:
    """Question attention x sqrt(1 - cosine to the neighbour): (B, L) float32, meaningful inside the pool.

    A long stream is scored by windows; a neighbour is the one in the whole clip.
    """
    new = novelty(stream, 1.0).sqrt()  # (B, L)
    return scored(stream, lambda part, where: _question_attention(backbone, part) * new[where])


def _question_attention(backbone: Backbone, stream: TokenStream) -> Tensor:
    """Attention of the question's words above their mean: (B, L), the maximum over words, heads and layers.

    The mean is over the question's words, head by head: attention that all words share, such as to sinks and to the
    nearest tokens, cancels. A mean over heads would hide a single informative head.
    """
    words = stream.question_tokens
    found = torch.zeros_like(stream.time)
    for blocks in backbone.attention_of(stream, words, LAYERS):
        found = torch.maximum(found, above_mean(blocks, words.sum(1)).amax(1))
    return found


def above_mean(blocks: Iterable[Tensor], words: Tensor) -> Tensor:
    """Max over words of attention minus its mean over words: blocks (B, H, K, L) → (B, H, L), for `words` (B,) in all.

    The mean is the same for all words, so one pass with a running maximum and sum is enough. The attention of a single
    word stays unchanged.
    """
    most = total = torch.zeros(len(words), 1, 1, device=words.device)
    for weights in blocks:
        most, total = torch.maximum(most, weights.amax(2)), total + weights.sum(2)
        del weights  # before the next block is made
    n = words[:, None, None]
    return most - torch.where(n > 1, total / n.clamp(min=1), 0.0)


def attended_flops(shape: Shape, tokens: int) -> float:
    """Floating-point operations over `tokens`: the layers before the last one read, and the keys of all of them."""
    keys = 2 * tokens * shape.width * shape.kv_heads * shape.head_size
    return (LAYERS - 1) * layer_flops(shape, tokens, causal=True) + LAYERS * keys
