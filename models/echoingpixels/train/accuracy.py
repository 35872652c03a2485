"""How many held-out questions are answered right, by teacher forcing: quick, and close to what answering gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..backbones.qwen_omni import QwenOmni
from ..inputs.stream import Stream
from ..reducers.cs2 import Sieve
from ..synth.questions import KINDS
from .answers import answer_loss, answer_of
from .bank import Example
from .episode import batch


@torch.no_grad()
def accuracy(
    backbone: QwenOmni, examples: Iterable[Example], at_once: int, sieve: Sieve | None = None, keep: float = 1.0
) -> dict[str, float]:
    """Share of wholly right answers, over `all` and by kind, and `valid_loss` a token.

    From all tokens every question is asked; through the sieve one of each clip.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    losses, tokens = 0.0, 0
    for part in _parts((e for e in examples if e.questions), at_once):
        asked = [(e, e.questions if sieve is None else e.questions[:2][-1:]) for e in part]
        with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
            made = batch(backbone, asked)
            stream = made.stream if sieve is None else made.stream.take(sieve(made.stream, keep))
            value, good = answer_loss(backbone, stream, made.attention() if sieve is None else None)
        losses, tokens = losses + float(value) * good.numel(), tokens + good.numel()
        for question, whole in zip([q for _, qs in asked for q in qs], _whole(stream, good), strict=True):
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


def _whole(stream: Stream, tokens: Tensor) -> list[bool]:
    """Fold right tokens into right answers: an answer is a run of labels."""
    assert stream.labels is not None
    answer = answer_of(stream.labels[:, 1:] != -100)
    wrong = answer.new_zeros(int(answer[-1]) + 1).index_add_(0, answer, (~tokens).long())
    return [int(n) == 0 for n in wrong]
