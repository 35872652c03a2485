"""Scores that need no training and read the attention weights of the decoder's first layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..backbones.base import Backbone, Shape
from ..backbones.sizes import layer_flops
from ..inputs.token_stream import TokenStream
from .chunked_scoring import scored
from .novelty import novelty

LAYERS = 2  # decoder layers whose attention is read
SINK = 0.3  # of a head's attention, mean over the words: the token is an attention sink (arXiv 2410.10781)


def relevant(backbone: Backbone, stream: TokenStream) -> Tensor:
    """Question attention x sqrt(1 - cosine to the neighbour): (B, L) float32, meaningful inside the pool.

    A long stream is scored by windows; a neighbour is the one in the whole clip.
    """
    new = novelty(stream, 1.0).sqrt()  # (B, L)
    return scored(stream, lambda part, where: _question_attention(backbone, part) * new[where])


def _question_attention(backbone: Backbone, stream: TokenStream) -> Tensor:
    """Attention of the question's words above their mean: (B, L), the maximum over words, heads and layers.

    The mean is over the question's words, head by head: attention that all words share, such as to sinks and to the
    nearest tokens, cancels. A mean over heads would hide a single informative head. A sink of any head gets 0: words
    attend to it more or less strongly for no reason in the clip.
    """
    words = stream.question_tokens
    found = torch.zeros_like(stream.time)
    sinks = torch.zeros_like(stream.mask)
    for blocks in backbone.attention_of(stream, words, LAYERS):
        above, mean = above_mean(blocks, words.sum(1))
        found, sinks = torch.maximum(found, above.amax(1)), sinks | (mean.amax(1) >= SINK)
    return found.masked_fill(sinks, 0.0)


def above_mean(blocks: Iterable[Tensor], words: Tensor) -> tuple[Tensor, Tensor]:
    """Max over words of attention minus its mean over words, and that mean: both (B, H, L).

    From blocks (B, H, K, L), for `words` (B,) in all. The mean is the same for all words, so one pass with a running
    maximum and sum is enough. The attention of a single word stays unchanged.
    """
    most = total = torch.zeros(len(words), 1, 1, device=words.device)
    for weights in blocks:
        most, total = torch.maximum(most, weights.amax(2)), total + weights.sum(2)
        del weights  # before the next block is made
    n = words[:, None, None]
    mean = total / n.clamp(min=1)
    return most - torch.where(n > 1, mean, 0.0), mean


def attended_flops(shape: Shape, tokens: int) -> float:
    """Floating-point operations over `tokens`: the layers before the last one read, and the keys of all of them."""
    keys = 2 * tokens * shape.width * shape.kv_heads * shape.head_size
    return (LAYERS - 1) * layer_flops(shape, tokens, causal=True) + LAYERS * keys
