"""A clip with its questions as one training stream. A clip's questions share its tokens and do not see one another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbones.base import Backbone
from ..inputs.positions import TEXT, Placed, place
from ..inputs.prepare import Media, as_inputs, chat_ids, plain_ids, question_length
from ..inputs.stream import Selection, Stream, packed, pad
from ..synth.questions import Question
from .bank import Example
from .statements import KIND


@dataclass(frozen=True)
class Batch:
    """Padded streams, and which part of its row each token belongs to: -1 padding, 0 the clip, 1 … its questions."""

    stream: Stream
    part: Tensor  # (B, L) int64

    def attention(self) -> Tensor:
        """(B, 1, L, L) bool: causal, a question sees the clip and itself."""
        mine = self.part[:, :, None] == self.part[:, None, :]
        clip = (self.part[:, None, :] == 0) & (self.part[:, :, None] > 0)
        return ((mine | clip).tril())[:, None]

    def thin(self, share: float, seed: int) -> Batch:
        """Only a random share of the audio and video tokens: cheaper, and the decoder learns to do with less."""
        drawn = torch.rand(self.part.shape, generator=torch.Generator().manual_seed(seed)).to(self.part.device)
        keep = self.stream.mask & (~self.stream.pool | (drawn < share))
        index, mask = packed(keep)
        return Batch(self.stream.take(Selection(keep)), torch.where(mask, self.part.gather(1, index), -1))


def batch(backbone: Backbone, episodes: list[tuple[Example, tuple[Question, ...]]]) -> Batch:
    """Join clips, each with the questions asked of it, into one batch."""
    made = [_episode(backbone, example, asked) for example, asked in episodes]
    longest = max(part.numel() for _, part in made)
    parts = torch.stack([F.pad(part, (longest - part.numel(), 0), value=-1) for _, part in made])
    return Batch(pad([stream for stream, _ in made]), parts.to(backbone.device))


def _episode(backbone: Backbone, example: Example, asked: tuple[Question, ...]) -> tuple[Stream, Tensor]:
    tokenizer: Any = backbone.tokenizer
    before, _, _ = chat_ids(tokenizer, "", "")
    clip = place([before, example.span], backbone.layout)
    start = int(clip.positions[0, -1]) + 1
    ids, positions, labels, parts, words = (
        [clip.ids],
        [clip.positions],
        [torch.full_like(clip.ids, -100)],
        [torch.zeros_like(clip.ids)],
        [torch.zeros_like(clip.ids, dtype=torch.bool)],
    )
    for number, question in enumerate(asked, 1):
        after, said, n_words = _written(tokenizer, question.kind == KIND, question.question, question.answer)
        n = len(after) + len(said)
        ids.append(torch.tensor(after + said))
        positions.append((torch.arange(n) + start).expand(3, -1))
        labels.append(torch.tensor([-100] * len(after) + said))
        parts.append(torch.full((n,), number))
        words.append(torch.arange(n) < n_words)
    text = sum(part.numel() for part in parts[1:])
    whole = Placed(
        ids=torch.cat(ids),
        positions=torch.cat(positions, 1),
        kind=F.pad(clip.kind, (0, text), value=TEXT),
        time=F.pad(clip.time, (0, text), value=torch.nan),
        cell=F.pad(clip.cell, (0, 0, 0, text), value=-1),
    )
    inputs = as_inputs(whole, (Media(example.span),), torch.cat(labels), torch.cat(words))
    return backbone.embed(inputs, (example.features,)), torch.cat(parts)


@lru_cache(maxsize=100_000)  # few wordings, asked again and again: tokenizing took a seventh of a step
def _written(tokenizer: Any, bare: bool, question: str, answer: str) -> tuple[list[int], list[int], int]:
    """Token ids of a question (of a statement without the chat around it) and of its answer; the question's length."""
    _, after, said = chat_ids(tokenizer, question, answer)
    if bare:
        after = plain_ids(tokenizer, f" {question}")
        return after, said, len(after)
    return after, said, question_length(tokenizer, after)
