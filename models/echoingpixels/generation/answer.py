"""What asking gives: an answer, whole or in chunks, and what it had cost before its first token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..report import Report
from .decode import FinishReason


@dataclass(frozen=True)
class Answer:
    """The text, its tokens, why it ended, what it cost, and when the audio and video tokens were that it was read from.

    `moments`: s from the clip's start of each kept token, by kind. `warnings`: what it cannot be trusted for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    report: Report
    moments: dict[str, tuple[float, ...]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of text as it is generated; the last one carries the whole answer."""

    text: str
    answer: Answer | None = None


@dataclass(frozen=True)
class Spent:
    """What an answer had cost before its first token: towers, choosing tokens, and the peak until then.

    `anew`: tokens that the towers made, of those kinds of which they did not make all. `warnings`: as in Answer.
    """

    tower_flops: float = 0.0
    choice_flops: float = 0.0
    peak_bytes: int | None = None
    anew: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def folded(chunks: Iterator[Chunk]) -> Answer:
    """The answer that chunks make."""
    answer = None
    for chunk in chunks:
        answer = chunk.answer
    assert answer is not None, "the last chunk carries the answer"
    return answer
