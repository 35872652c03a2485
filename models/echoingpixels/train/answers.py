"""The loss of answers: from all tokens or through the sieve, and of the sieve's distillation (EchoingPixels, 3)."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbones.qwen_omni import QwenOmni
from ..inputs.stream import Stream
from ..reducers.cs2 import Sieve
from .draws import Draw
from .episode import Batch, batch
from .saliency import distil_loss


def loss_of(backbone: QwenOmni, sieve: Sieve | None, draw: Draw) -> tuple[Tensor, dict[str, float]]:
    """A draw's loss and figures."""
    if draw.task == "answers" or sieve is None:
        return _full_loss(backbone, draw)
    stream = thinned(backbone, draw).stream
    if draw.task == "distil":
        value = distil_loss(backbone, sieve, stream, sieve.score(sieve.encode(stream)), draw.target)
        return value, {"kl": float(value.detach())}
    if draw.temperature is None:
        value, right = answer_loss(backbone, stream.take(sieve(stream, draw.keep)))
    else:
        value, right = _soft_loss(backbone, sieve, stream, draw, draw.temperature)
    return value, {"right": float(right.float().mean())}


def _soft_loss(
    backbone: QwenOmni, sieve: Sieve, stream: Stream, draw: Draw, temperature: float
) -> tuple[Tensor, Tensor]:
    """Through a soft gate; with a `distil_weight` the scores stay near what they were distilled from."""
    scores = sieve.score(sieve.encode(stream))
    value, right = answer_loss(backbone, stream, sieve.soft_attention(stream, scores, draw.keep, temperature))
    if draw.distil_weight:
        value = value + draw.distil_weight * distil_loss(backbone, sieve, stream, scores, draw.target)
    return value, right


def thinned(backbone: QwenOmni, draw: Draw) -> Batch:
    """What is drawn as one batch, with the share of its audio and video tokens that the draw leaves it."""
    made = batch(backbone, draw.asked)
    return made if draw.share == 1 else made.thin(draw.share, draw.item)


def _full_loss(backbone: QwenOmni, draw: Draw) -> tuple[Tensor, dict[str, float]]:
    """Many questions of one clip in one sequence."""
    made = thinned(backbone, draw)
    weights = _evenly([question.kind for _, asked in draw.asked for question in asked]).to(backbone.device)
    value, right = answer_loss(backbone, made.stream, made.attention(), weights, draw.focus)
    return value, {draw.figure: float(right.float().mean())}


def _evenly(kinds: list[str]) -> Tensor:
    """A weight (Q,) for each answer, so that frequent kinds do not drown the rare ones."""
    counts = Counter(kinds)
    return torch.tensor([counts[kind] ** -0.5 for kind in kinds])


def answer_loss(
    backbone: QwenOmni,
    stream: Stream,
    attention: Tensor | None = None,
    weights: Tensor | None = None,
    focus: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Next-token loss over the answers, by `weights` (Q,) if given, and which answer tokens are right, row by row.

    `attention` says who sees whom, as in `QwenOmni.hidden`; `focus` is as in `focal`.
    """
    assert stream.labels is not None
    hidden = backbone.hidden(stream, attention=attention)
    wanted = stream.labels[:, 1:] != -100
    logits = backbone.logits(hidden[:, :-1][wanted]).float()
    labels = stream.labels[:, 1:][wanted]
    right = logits.argmax(-1) == labels
    surprise = focal(F.cross_entropy(logits, labels, reduction="none"), focus)
    if weights is None:
        return surprise.mean(), right
    each = weights[answer_of(wanted)]
    return (surprise * each).sum() / each.sum(), right


def focal(surprise: Tensor, focus: float) -> Tensor:
    """−log p, any shape, times (1 − p) to the power `focus`: what is known counts little (Lin et al. 2017, eq. 4)."""
    return surprise * (-torch.expm1(-surprise)) ** focus


def answer_of(said: Tensor) -> Tensor:
    """Which answer each label token belongs to: `said` (B, L) bool → (number of True,) int64 from 0, row by row."""
    begins = said & ~F.pad(said, (1, 0))[:, :-1]
    return begins.flatten().cumsum(0)[said.flatten()] - 1
