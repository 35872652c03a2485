"""Questions about any number of clips, answered together as padded batches: each as it would be alone.

Knows nothing about files, scores or where answers go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from .encoded_clip import EncodedClip
from .errors import EpError
from .generation.decode import FinishReason, Text, stream_tokens
from .inputs.positions import KINDS
from .inputs.prepare import Inputs
from .inputs.stream import Stream, pad
from .memory_errors import guarded
from .model import EchoingPixels
from .options import AskOptions
from .report import Stopwatch

TOKENS_AT_ONCE = 16_384  # in one padded batch of questions; a longer prompt goes alone


class Question(Protocol):
    """Anything with a question."""

    @property
    def question(self) -> str: ...


R = TypeVar("R", bound=Question)


@dataclass(frozen=True)
class Asked(Generic[R]):
    """One question ready to be answered, and the seconds that took; or why its clip failed."""

    row: R
    looked: EncodedClip | None
    prompt: Inputs | None
    seconds: dict[str, float]
    error: EpError | None = None

    @property
    def tokens(self) -> int:
        """Length of its prompt."""
        return 0 if self.prompt is None else self.prompt.kind.shape[1]

    def counts(self) -> dict[str, int]:
        """Tokens of its prompt by kind, those that the towers left out, too."""
        assert self.prompt is not None, "its clip failed"
        return {name: int((self.prompt.kind == i).sum()) for i, name in enumerate(KINDS)}

    def stream(self, watch: Stopwatch) -> Stream:
        """The prompt embedded: anew each time, so that all questions about a clip share its features until then."""
        assert self.looked is not None and self.prompt is not None, "its clip failed"
        seen = self.looked.seen_for(self.prompt, watch)
        with watch.stage("prepare"):
            return self.looked.model.embed(self.prompt, (seen,))


@dataclass(frozen=True)
class Said:
    """One answer, why it ended, how many tokens it has, and its prompt's by kind before and after choosing."""

    text: str
    reason: FinishReason
    tokens: int
    before: dict[str, int]
    after: dict[str, int]


def ask(looked: EncodedClip, rows: Iterable[R]) -> list[Asked[R]]:
    """All questions about one clip; the first one carries what the clip itself cost."""
    asked: list[Asked[R]] = []
    for row in rows:
        watch = Stopwatch(looked.watch.device) if asked else looked.watch
        with watch.stage("prepare"):
            prompt = looked.model.prepare(looked.media, row.question)
        asked.append(Asked(row, looked, prompt, watch.seconds))
    return asked


def batches(asked: Iterable[Asked[R] | None]) -> Iterator[list[Asked[R]]]:
    """Questions in order, as many at once as stay under TOKENS_AT_ONCE when padded; of any number of clips.

    A None means that nothing more is ready now: what has come is not kept waiting.
    """
    part: list[Asked[R]] = []
    longest = 0
    for one in asked:
        longest = max(longest, one.tokens if one else 0)
        if part and (one is None or longest * (len(part) + 1) > TOKENS_AT_ONCE):
            yield part
            part, longest = [], one.tokens if one else 0
        if one is not None:
            part.append(one)
    if part:
        yield part


def answers(model: EchoingPixels, asked: Sequence[Asked[R]], options: AskOptions, watch: Stopwatch) -> list[Said]:
    """The answers to one batch of questions whose clips did not fail, in order; adds its seconds to `watch`.

    OutOfMemoryError, with advice for the first of them, where memory runs out.
    """
    first = asked[0].looked
    assert first is not None, "its clip failed"
    advise = partial(model.advise, first.media, asked[0].row.question, options)
    return guarded(partial(_answers, model, asked, options, watch), "answering", model.backbone.device, advise)


def _answers(model: EchoingPixels, asked: Sequence[Asked[R]], options: AskOptions, watch: Stopwatch) -> list[Said]:
    streams = [one.stream(watch) for one in asked]
    with watch.stage("prepare"):
        stream = pad(streams) if len(streams) > 1 else streams[0]
    with watch.stage("select"):
        kept = stream.take(model.select(stream, options.reducer, options.keep))
    del stream, streams  # a long one is large, and all that is left to do is with what was kept
    texts = [Text(model.backbone) for _ in asked]
    for tokens in stream_tokens(model.backbone, kept, options.generate, watch):
        for text, token in zip(texts, tokens.tolist(), strict=True):
            if token >= 0:
                text.push(token)
    counts = zip(asked, texts, kept.row_counts(), strict=True)
    return [Said(text.text, text.reason, len(text.ids), one.counts(), after) for one, text, after in counts]
