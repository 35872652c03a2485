"""The loss of answers, with all tokens or through the sieve, and the accuracy on held-out clips (EchoingPixels, 3)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbones.qwen_omni import QwenOmni
from ..inputs.token_stream import TokenStream
from ..reducers.cs2 import Sieve
from ..reducers.registry import REDUCERS
from ..synth.questions import KINDS
from .draws import Draw
from .examples import Batch, Example, batch
from .gate import soft_attention
from .saliency import distil_loss


def loss_of(backbone: QwenOmni, sieve: Sieve | None, draw: Draw) -> tuple[Tensor, dict[str, float]]:
    """The loss of a draw and its figures."""
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


def thinned(backbone: QwenOmni, draw: Draw) -> Batch:
    """A draw as one batch, with its random share of the audio and video tokens."""
    whole = batch(backbone, draw.asked)
    return whole if draw.share == 1 else whole.thin(draw.share, draw.item)


def _soft_loss(
    backbone: QwenOmni, sieve: Sieve, stream: TokenStream, draw: Draw, temperature: float
) -> tuple[Tensor, Tensor]:
    """Through a soft gate; with `distil_weight` the scores stay near their distillation target."""
    scores = sieve.score(sieve.encode(stream))
    attention = soft_attention(stream, scores, REDUCERS[draw.reducer], draw.keep, temperature)
    value, right = answer_loss(backbone, stream, attention)
    if draw.distil_weight:
        value = value + draw.distil_weight * distil_loss(backbone, sieve, stream, scores, draw.target)
    return value, right


def _full_loss(backbone: QwenOmni, draw: Draw) -> tuple[Tensor, dict[str, float]]:
    """Several questions of each clip in one sequence."""
    made = thinned(backbone, draw)
    weights = _balanced([question.kind for _, asked in draw.asked for question in asked]).to(backbone.device)
    value, right = answer_loss(backbone, made.stream, made.attention(), weights, draw.focus)
    return value, {draw.figure: float(right.float().mean())}


def _balanced(kinds: list[str]) -> Tensor:
    """A weight (Q,) for each answer, so that frequent kinds do not dominate rare kinds."""
    counts = Counter(kinds)
    return torch.tensor([counts[kind] ** -0.5 for kind in kinds])


def answer_loss(
    backbone: QwenOmni,
    stream: TokenStream,
    attention: Tensor | None = None,
    weights: Tensor | None = None,
    focus: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Next-token loss over the answers, weighted by `weights` (Q,) if given, and which answer tokens are right.

    `attention` is the mask of `QwenOmni.hidden`; `focus` is the exponent of `focal`. Tokens are in row-major order.
    """
    assert stream.labels is not None
    hidden = backbone.hidden(stream, attention=attention)
    labelled = stream.labels[:, 1:] != -100
    logits = backbone.logits(hidden[:, :-1][labelled]).float()
    labels = stream.labels[:, 1:][labelled]
    right = logits.argmax(-1) == labels
    losses = focal(F.cross_entropy(logits, labels, reduction="none"), focus)
    if weights is None:
        return losses.mean(), right
    each = weights[answer_of(labelled)]
    return (losses * each).sum() / each.sum(), right


def focal(losses: Tensor, focus: float) -> Tensor:
    """Losses −log p, any shape, times (1 − p) to the power `focus` (focal loss: Lin et al. 2017, eq. 4)."""
    return losses * (-torch.expm1(-losses)) ** focus


def answer_of(labelled: Tensor) -> Tensor:
    """The answer that each label token belongs to: `labelled` (B, L) bool → (number of True,) int64, row-major."""
    begins = labelled & ~F.pad(labelled, (1, 0))[:, :-1]
    return begins.flatten().cumsum(0)[labelled.flatten()] - 1


@torch.no_grad()
def accuracy(
    backbone: QwenOmni,
    examples: Iterable[Example],
    batch_size: int,
    sieve: Sieve | None = None,
    reducer: str = "cs2",
    keep: float = 1.0,
) -> dict[str, float]:
    """The share of answers with every token right under teacher forcing, over `all` and by kind, and `valid_loss`.

    With all tokens every question is asked; through the sieve one question of each clip. `valid_loss` is per token.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    losses, tokens = 0.0, 0
    for part in _parts((e for e in examples if e.questions), batch_size):
        asked = [(e, e.questions if sieve is None else e.questions[:2][-1:]) for e in part]
        with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
            made = batch(backbone, asked)
            stream = made.stream
            if sieve is not None:
                stream = stream.take(REDUCERS[reducer].choose(backbone, sieve, stream, keep))
            value, good = answer_loss(backbone, stream, made.attention() if sieve is None else None)
        losses, tokens = losses + float(value) * good.numel(), tokens + good.numel()
        for question, whole in zip([q for _, qs in asked for q in qs], answers_right(stream, good), strict=True):
            right[question.kind].append(whole)
    every = [good for goods in right.values() for good in goods]
    kinds = sorted(right.keys() - {""}, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))
    shares = {"all": every, **{kind: right[kind] for kind in kinds}}
    means = {name: float(np.mean(goods or [False])) for name, goods in shares.items()}
    return {**means, "valid_loss": losses / max(1, tokens)}


def _parts(examples: Iterator[Example], n: int) -> Iterator[list[Example]]:
    """Up to n at a time."""
    while part := list(islice(examples, n)):
        yield part


def answers_right(stream: TokenStream, right: Tensor) -> list[bool]:
    """Which answers have every token right."""
    assert stream.labels is not None
    answer = answer_of(stream.labels[:, 1:] != -100)
    wrong = answer.new_zeros(int(answer[-1]) + 1).index_add_(0, answer, (~right).long())
    return [int(n) == 0 for n in wrong]
