"""Ways to choose tokens that need no training and read the attention of the decoder's first layers.

Each is `(backbone, stream, keep) -> Selection`; what is kept goes through the whole decoder afterwards, from its
embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ..backbones.base import Backbone, Shape
from ..backbones.flops import layer_flops
from ..inputs.stream import Selection, Stream, budget
from .basic import by_scores, news
from .chunked_scoring import Where, rated

LAYERS = 2  # of the decoder, whose attention is read
COVERED, WINDOW_S = 0.25, 2.0  # of relevance's budget, and the model's own chunk of interleaved picture and sound


def fastv(backbone: Backbone, stream: Stream, keep: float) -> Selection:
    """What the prompt's last token attends to in layer 2, mean of the heads: FastV's rule, as its code has it.

    Source: FastV (arXiv 2403.06764), which drops the other tokens from that layer on; so only its rule is compared.
    """
    if not bool(stream.pool.any()):
        return Selection(keep=stream.mask)

    def rate(part: Stream, _: Where) -> Tensor:
        last = torch.zeros_like(part.mask)
        last[:, -1] = True
        blocks = list(backbone.attention_of(part, last, LAYERS))[-1]
        return next(blocks)[:, :, 0].mean(1)

    return by_scores(stream, rated(stream, rate), keep)


def relevance(backbone: Backbone, stream: Stream, keep: float) -> Selection:
    """What any word of the question attends to more than its other words do, less where a token repeats the one before.

    One pool of audio and video; a COVERED share of the budget goes evenly to windows of time, each to its best, so that
    what the first layers overlook is still there in outline.
    """
    if not bool(stream.pool.any()):
        return Selection(keep=stream.mask)
    scores = relevant(backbone, stream)
    return replace(
        by_scores(stream, scores.masked_fill(_outline(stream, scores, keep), torch.inf), keep), scores=scores
    )


def _outline(stream: Stream, scores: Tensor, keep: float) -> Tensor:
    """The best of each window by scores (B, L), as many of each as the covered share has for all: (B, L) bool.

    What repeats its neighbour to the bit, or is not looked for at all, is never among them.
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


def relevant(backbone: Backbone, stream: Stream) -> Tensor:
    """Question attention x sqrt(1 - cosine to the neighbour): (B, L) float32, meaningful inside the pool.

    A long stream is scored by windows; a neighbour is the one in the whole clip.
    """
    new = news(stream, 1.0).sqrt()  # (B, L)
    return rated(stream, lambda part, where: _question_attention(backbone, part) * new[where])


def _question_attention(backbone: Backbone, stream: Stream) -> Tensor:
    """The most (B, L) by which any word of the question, with any head of any layer, attends to a token above the mean.

    The mean is over the question's words, head by head: what all words attend to alike, such as sinks and the nearest
    tokens, cancels. A mean over heads would drown the one that finds something.
    """
    words = stream.words
    found = torch.zeros_like(stream.time)
    for blocks in backbone.attention_of(stream, words, LAYERS):
        found = torch.maximum(found, above_mean(blocks, words.sum(1)).amax(1))
    return found


def above_mean(blocks: Iterable[Tensor], words: Tensor) -> Tensor:
    """Max over words of attention minus its mean over words: blocks (B, H, K, L) → (B, H, L), for `words` (B,) in all.

    The mean is the same for all words, so the running maximum and sum of one pass are enough. One word alone has
    nothing to be compared with: its attention stays as it is.
    """
    most = total = torch.zeros(len(words), 1, 1, device=words.device)
    for weights in blocks:
        most, total = torch.maximum(most, weights.amax(2)), total + weights.sum(2)
        del weights  # before the next block is made
    n = words[:, None, None]
    return most - torch.where(n > 1, total / n.clamp(min=1), 0.0)


def attended_flops(shape: Shape, tokens: int) -> float:
    """Floating-point operations over `tokens`: the layers before the last that is read, and the keys of all of them."""
    keys = 2 * tokens * shape.width * shape.kv_heads * shape.head_size
    return (LAYERS - 1) * layer_flops(shape, tokens, causal=True) + LAYERS * keys
