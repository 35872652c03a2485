"""Ways to choose tokens that need no training and ask the decoder's first layers what they attend to.

Each is `(backbone, stream, keep) -> Selection`; what is kept goes through the whole decoder afterwards, from its
embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .backbones.base import Backbone
from .reducers import by_scores, news
from .stream import Selection, Stream, budget
from .windows import Where, rated

Attended = Callable[[Backbone, Stream, float], Selection]
LAYERS = 2  # of the decoder, run over all tokens
COVERED, WINDOW_S = 0.25, 2.0  # of relevance's budget, and the model's own chunk of interleaved picture and sound


def fastv(backbone: Backbone, stream: Stream, keep: float) -> Selection:
    """What the prompt's last token attends to in layer 2, mean of the heads: FastV's rule, as its code has it.

    Source: FastV (arXiv 2403.06764), which drops the other tokens from that layer on; so only its rule is compared.
    """
    if not bool(stream.pool.any()):
        return Selection(keep=stream.mask)

    def rate(part: Stream, _: Where) -> Tensor:
        return backbone.attention_of(part, 1, LAYERS)[-1][:, :, 0].mean(1)

    return by_scores(stream, rated(stream, rate), keep)


def relevance(backbone: Backbone, stream: Stream, keep: float) -> Selection:
    """What any word of the question looks for with any head, less where the token repeats its neighbour before.

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
    """Max of the attention x sqrt(1 - cosine to the neighbour): (B, L) float32, meaningful inside the pool.

    Of a long stream attention is asked for by windows; a neighbour is the one in the whole clip.
    A mean over words or heads would drown the one that finds something. Only text after a row's last clip asks, answers
    in training do not.
    """
    new = news(stream, 1.0).sqrt()  # (B, L)
    return rated(stream, lambda part, where: _sought(backbone, part) * new[where])


def _sought(backbone: Backbone, stream: Stream) -> Tensor:
    """Max of the attention (B, L) that any word of the question pays with any head."""
    after = stream.pool.flip(1).cumsum(1).flip(1) == 0  # (B, L)
    last = int((stream.mask & after).sum(1).amax())
    found = torch.zeros_like(stream.time)
    for weights in backbone.attention_of(stream, last, LAYERS):
        found = torch.maximum(found, (weights * stream.asked[:, None, -last:, None]).amax((1, 2)))
    return found


ATTENDED: dict[str, Attended] = {"fastv": fastv, "relevance": relevance}
