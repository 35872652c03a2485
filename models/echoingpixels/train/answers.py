"""Stages 2 and 3: the decoder learns to answer from all tokens, then through the sieve (EchoingPixels, section 3)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones.qwen_omni import QwenOmni
from ..sieve import Sieve
from ..stream import Stream
from ..synth.questions import KINDS, Question, pick
from . import loop
from .bank import Example, Reader
from .episode import Batch, batch
from .recipe import Full, Recipe

VALID_SEED = 1_000_003  # of clips never trained on
VALID_CLIPS = 250
VALID_AT_ONCE = 25


def train_full(backbone: QwenOmni, recipe: Recipe, out: Path) -> None:
    """Stage 2, in place: questions with all tokens, many of one clip in one sequence. Resumes from OUT/full.pt."""
    reader, valid = _readers(recipe, out)
    plan = recipe.full

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([recipe.seed, step, 2])
        return _full_loss(
            backbone, _asked(reader.draw(rng, plan.clips), plan, rng), plan.share[step % len(plan.share)], step
        )

    def check() -> dict[str, float]:
        return {"clips": len(reader.examples), **_accuracy(backbone, valid)}

    loop.train(_decoder(backbone), loss, plan.steps, plan.lr, out, "full", recipe.save_every, check)


def train_cs2(backbone: QwenOmni, sieve: Sieve, recipe: Recipe, out: Path) -> None:
    """Stage 3, in place: one question a row through the sieve at mixed keep ratios. Resumes from OUT/cs2.pt."""
    reader, valid = _readers(recipe, out)
    plan = recipe.cs2

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([recipe.seed, step, 3])
        if step % plan.full_every == 0:
            value, _ = _full_loss(backbone, _asked(reader.draw(rng, recipe.full.clips), recipe.full, rng))
            return value, {}
        examples = reader.draw(rng, plan.questions)
        asked = [(example, tuple(pick(example.questions, rng, 1))) for example in examples]
        stream = batch(backbone, [pair for pair in asked if pair[1]]).stream
        kept = stream.take(sieve(stream, float(rng.choice(plan.keep))))
        value, right = _answer_loss(backbone, kept)
        return value, {"right": float(right.float().mean())}

    def check() -> dict[str, float]:
        found = {f"keep_{keep:g}": _accuracy(backbone, valid, sieve, keep)["all"] for keep in (0.2, 0.05)}
        return {**found, **_accuracy(backbone, valid)}

    both = nn.ModuleDict({"decoder": _decoder(backbone), "sieve": sieve})
    loop.train(both, loss, plan.steps, plan.lr, out, "cs2", recipe.save_every, check)


def _readers(recipe: Recipe, out: Path) -> tuple[Reader, Reader]:
    reader, valid = Reader(out / "bank", recipe.seed), Reader(out / "bank", VALID_SEED)
    valid.draw(np.random.default_rng(0), 1)  # waits until it is there
    return reader, valid


def _decoder(backbone: QwenOmni) -> nn.ModuleDict:
    """What stages 2 and 3 train: all but the towers."""
    return nn.ModuleDict({"text": backbone.text, "head": backbone.thinker.lm_head})


def _asked(examples: list[Example], plan: Full, rng: np.random.Generator) -> list[Example]:
    """The same clips with no more questions and statements than the recipe wants, its `first` kinds before others."""

    def some(all_: tuple[Question, ...], most: int) -> tuple[Question, ...]:
        drawn = [all_[int(i)] for i in rng.permutation(len(all_))]
        return tuple(sorted(drawn, key=lambda q: q.kind not in plan.first)[:most])

    return [
        replace(one, questions=some(one.questions, plan.questions), statements=some(one.statements, plan.statements))
        for one in examples
    ]


def _full_loss(
    backbone: QwenOmni, examples: list[Example], share: float = 1.0, seed: int = 0
) -> tuple[Tensor, dict[str, float]]:
    made = batch(backbone, [(example, example.questions + example.statements) for example in examples])
    if share < 1:
        made = made.thin(share, seed)
    asked = [q.kind for example in examples for q in example.questions + example.statements]
    value, right = _answer_loss(backbone, made.stream, made, _evenly(asked))
    return value, {"right": float(right.float().mean())}


def _evenly(kinds: list[str]) -> Tensor:
    """A weight (Q,) for each answer, so that frequent kinds do not drown the rare ones."""
    counts = Counter(kinds)
    return torch.tensor([counts[kind] ** -0.5 for kind in kinds])


def _answer_loss(
    backbone: QwenOmni, stream: Stream, packed: Batch | None = None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Next-token loss over the answers, by `weights` (Q,) if given, and which answer tokens are right, row by row."""
    assert stream.labels is not None
    hidden = backbone.hidden(stream, attention=None if packed is None else packed.attention())
    wanted = stream.labels[:, 1:] != -100
    logits = backbone.logits(hidden[:, :-1][wanted]).float()
    labels = stream.labels[:, 1:][wanted]
    right = logits.argmax(-1) == labels
    if weights is None:
        return F.cross_entropy(logits, labels), right
    each = weights[_answer_of(wanted)]
    return (F.cross_entropy(logits, labels, reduction="none") * each).sum() / each.sum(), right


@torch.no_grad()
def _accuracy(backbone: QwenOmni, valid: Reader, sieve: Sieve | None = None, keep: float = 1.0) -> dict[str, float]:
    """Share of wholly right answers on held-out clips, overall and by kind."""
    right: dict[str, list[bool]] = defaultdict(list)
    examples = valid.examples[:VALID_CLIPS]
    for first in range(0, len(examples), VALID_AT_ONCE):
        part = [e for e in examples[first : first + VALID_AT_ONCE] if e.questions]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if sieve is None:
                asked = [(e, e.questions) for e in part]
                made = batch(backbone, asked)
                _, tokens = _answer_loss(backbone, made.stream, made)
                stream = made.stream
            else:
                asked = [(e, e.questions[:2][-1:]) for e in part]
                stream = batch(backbone, asked).stream
                stream = stream.take(sieve(stream, keep))
                _, tokens = _answer_loss(backbone, stream)
        for question, good in zip([q for _, qs in asked for q in qs], _whole(stream, tokens), strict=True):
            right[question.kind].append(good)
    every = [good for goods in right.values() for good in goods]
    return {"all": float(np.mean(every)), **{kind: float(np.mean(right[kind] or [False])) for kind in KINDS}}


def _whole(stream: Stream, tokens: Tensor) -> list[bool]:
    """Fold right tokens into right answers: an answer is a run of labels."""
    assert stream.labels is not None
    answer = _answer_of(stream.labels[:, 1:] != -100)
    wrong = torch.zeros(int(answer[-1]) + 1, dtype=torch.long).index_add_(0, answer, (~tokens).long())
    return [int(n) == 0 for n in wrong]


def _answer_of(said: Tensor) -> Tensor:
    """Which answer each label token belongs to: `said` (B, L) bool → (number of True,) int64 from 0, row by row."""
    begins = said & ~F.pad(said, (1, 0))[:, :-1]
    return begins.flatten().cumsum(0)[said.flatten()] - 1
