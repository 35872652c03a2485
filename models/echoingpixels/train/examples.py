"""Training examples: a clip's features with its questions, and batches of them as token streams.

The questions of a clip share its tokens and do not attend to one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbones.base import Backbone, Features
from ..inputs.positions import TEXT, Placed, Span, place
from ..inputs.prepare import Media, as_inputs
from ..inputs.prompt import chat_ids, plain_ids, question_length
from ..inputs.token_stream import Selection, TokenStream, packed, pad
from ..synth.questions import Question

STATEMENT = "<"  # begins the kinds of questions without the chat around them; no kind of a question file
BUCKET = 4  # batches drawn and sorted by length, of which one is selected


@dataclass(frozen=True)
class Example:
    """One clip's features, with its questions and its statements (short facts without the chat around them)."""

    span: Span
    features: Features
    questions: tuple[Question, ...]
    statements: tuple[Question, ...] = ()
    index: int = -1  # number of the clip in its set


Asked = list[tuple[Example, tuple[Question, ...]]]  # clips, each with the questions to ask


class Supply(Protocol):
    """A source of examples."""

    def __len__(self) -> int:
        """The number of examples available now."""

    def __iter__(self) -> Iterator[Example]:
        """All examples, in order."""

    def draw(self, rng: np.random.Generator, n: int) -> list[Example]:
        """n random examples of similar length."""


class Spanned(Protocol):
    """An object with a length in tokens."""

    @property
    def span(self) -> Span:
        """The tokens of a clip."""


S = TypeVar("S", bound=Spanned)


def similar(clips: Sequence[S], rng: np.random.Generator, n: int) -> list[S]:
    """n random clips of similar length, which need little padding."""
    drawn = [clips[int(i)] for i in rng.integers(len(clips), size=BUCKET * n)]
    drawn.sort(key=lambda one: one.span.tokens)
    first = int(rng.integers((BUCKET - 1) * n + 1))
    return drawn[first : first + n]


@dataclass(frozen=True)
class Batch:
    """Padded streams, with the part of its row that each token belongs to: -1 padding, 0 the clip, 1 … questions."""

    stream: TokenStream
    part: Tensor  # (B, L) int64

    def attention(self) -> Tensor:
        """The mask (B, 1, L, L) bool: causal, and a question attends to the clip and to itself."""
        same = self.part[:, :, None] == self.part[:, None, :]
        clip = (self.part[:, None, :] == 0) & (self.part[:, :, None] > 0)
        return ((same | clip).tril())[:, None]

    def thin(self, share: float, seed: int) -> Batch:
        """A random share of the audio and video tokens: cheaper, and the decoder learns to use fewer tokens."""
        drawn = torch.rand(self.part.shape, generator=torch.Generator().manual_seed(seed)).to(self.part.device)
        keep = self.stream.mask & (~self.stream.pool | (drawn < share))
        index, mask = packed(keep)
        return Batch(self.stream.take(Selection(keep)), torch.where(mask, self.part.gather(1, index), -1))


def batch(backbone: Backbone, examples: Asked) -> Batch:
    """Join clips, each with its questions, into one batch."""
    rows = [_row(backbone, example, questions) for example, questions in examples]
    longest = max(part.numel() for _, part in rows)
    parts = torch.stack([F.pad(part, (longest - part.numel(), 0), value=-1) for _, part in rows])
    return Batch(pad([stream for stream, _ in rows]), parts.to(backbone.device))


def _row(backbone: Backbone, example: Example, questions: tuple[Question, ...]) -> tuple[TokenStream, Tensor]:
    """The stream of a clip with its questions, and the part (L,) of each token."""
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
    for number, question in enumerate(questions, 1):
        bare = question.kind.startswith(STATEMENT)
        after, answer, n_words = _tokenized(tokenizer, bare, question.question, question.answer)
        n = len(after) + len(answer)
        ids.append(torch.tensor(after + answer))
        positions.append((torch.arange(n) + start).expand(3, -1))
        labels.append(torch.tensor([-100] * len(after) + answer))
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


@lru_cache(maxsize=100_000)  # few wordings, repeated often: tokenizing took a seventh of a step
def _tokenized(tokenizer: Any, bare: bool, question: str, answer: str) -> tuple[list[int], list[int], int]:
    """Token ids of a question (without the chat around it if `bare`) and of its answer; the length of the question."""
    _, after, answer_ids = chat_ids(tokenizer, question, answer)
    if bare:
        after = plain_ids(tokenizer, f" {question}")
        return after, answer_ids, len(after)
    return after, answer_ids, question_length(tokenizer, after)
