"""Scores of audio and video tokens, the first part of a reducer: none, or one that reads the decoder or a sieve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..backbones.base import Backbone, Shape
from ..backbones.sizes import sieve_flops
from ..errors import ModelError
from ..inputs.token_stream import TokenStream

if TYPE_CHECKING:
    from .cs2 import Sieve


@dataclass(frozen=True)
class Scored:
    """The scores of a stream's tokens (B, L) float32, meaningful inside the pool; None: no token is better.

    `fused` (B, L, D) replaces the stream's embeds, or is None.
    """

    scores: Tensor | None = None
    fused: Tensor | None = None


def unscored(backbone: Backbone, sieve: Sieve | None, stream: TokenStream) -> Scored:
    """No scores."""
    return Scored()


def free(shape: Shape, sieve: Sieve | None, tokens: int) -> float:
    """A score without matrix products."""
    return 0.0


@dataclass(frozen=True)
class Scorer:
    """`score(backbone, sieve, stream)` scores a stream and changes nothing.

    `flops(shape, sieve, tokens)`: floating-point operations to score that many tokens at once. `reads_attention`:
    whether it computes attention weights in the decoder's first layers. `compares_steps`: whether it compares each
    token with its predecessor (`novelty`). Memory plans include both. `reads_question`: whether the scores may depend
    on the text.
    """

    score: Callable[[Backbone, Sieve | None, TokenStream], Scored] = unscored
    flops: Callable[[Shape, Sieve | None, int], float] = free
    needs_sieve: bool = False
    reads_attention: bool = False
    compares_steps: bool = False
    reads_question: bool = True


def _cs2(backbone: Backbone, sieve: Sieve | None, stream: TokenStream) -> Scored:
    from .cs2 import no_sieve

    if sieve is None:
        raise no_sieve(backbone.name)
    return sieve.scores(stream)


def _cs2_flops(shape: Shape, sieve: Sieve | None, tokens: int) -> float:
    return 0.0 if sieve is None else sieve_flops(shape, tokens, sieve.options.layers)


def _relevance(backbone: Backbone, sieve: Sieve | None, stream: TokenStream) -> Scored:
    from .attention import relevant

    return Scored(relevant(backbone, stream))


def _attention_flops(shape: Shape, sieve: Sieve | None, tokens: int) -> float:
    from .attention import attended_flops

    return attended_flops(shape, tokens)


def _novelty(backbone: Backbone, sieve: Sieve | None, stream: TokenStream) -> Scored:
    from .novelty import novelty

    return Scored(novelty(stream, torch.inf))


def _saliency(backbone: Backbone, sieve: Sieve | None, stream: TokenStream) -> Scored:
    if stream.saliency is None:
        hint = "Encode it with `EchoingPixels.encode`, or choose a reducer without encoder saliency."
        raise ModelError("A clip of the prompt was encoded without the saliency that this reducer needs.", hint)
    return Scored(stream.saliency)


NONE = Scorer(reads_question=False)
CS2 = Scorer(_cs2, _cs2_flops, needs_sieve=True)
RELEVANCE = Scorer(_relevance, _attention_flops, reads_attention=True, compares_steps=True)
NOVELTY = Scorer(_novelty, compares_steps=True, reads_question=False)
SALIENCY = Scorer(_saliency, reads_question=False)
