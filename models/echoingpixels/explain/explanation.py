"""The kept tokens of a clip at each keep ratio, their scores, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, pairwise

import torch

from ..encoded_clip import EncodedClip
from ..generation.answer import Answer
from ..inputs.kept import ByKind
from ..inputs.positions import KINDS, Span
from ..inputs.token_stream import Selection, TokenStream
from ..media.clip import Clip
from ..options import AskOptions
from ..reducer_names import SIEVED
from ..reducers.chunked_scoring import AT_ONCE
from ..reducers.cs2 import Form
from ..reducers.setting import Setting, settings

LADDER = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)  # keep ratios to compare
FUSED = (
    "This sieve has the fused form: its encoder mixes the whole clip into the text tokens before any token is "
    "dropped, so the kept tokens do not prove what the answer is based on."
)
EXTRACTIVE = (
    "This sieve has the extractive form: it only scores tokens, and the decoder reads nothing of the clip but the "
    "kept tokens, so the answer is based on them."
)
OTHER = (
    "The decoder reads nothing of the clip but the kept tokens, so the answer is based on them; that {} kept them "
    "does not mean that they matter."
)


@dataclass(frozen=True)
class Token:
    """One audio, video or image token: its time (s from the clip's start) and its (row, column), None for audio."""

    kind: str
    time: float
    cell: tuple[int, int] | None


@dataclass(frozen=True)
class Choice:
    """The result of one reducer at one keep ratio.

    `kept`: indices into the explanation's `tokens`, ascending. `scores`: of all of these, None without scores.
    """

    setting: Setting
    kept: tuple[int, ...]
    scores: tuple[float, ...] | None
    answer: Answer


@dataclass(frozen=True)
class Explanation:
    """A question about a clip, answered at several keep ratios.

    `tokens`: all tokens that compete for the budget, in stream order. `choices`: fewest tokens first; `asked` is the
    index of the requested one. `form`: of the sieve, None for a reducer without one.
    """

    clip: Clip
    question: str
    model: str
    reducer: str
    form: Form | None
    span: Span
    tokens: tuple[Token, ...]
    choices: tuple[Choice, ...]
    asked: int
    left_out: tuple[float, ...] = ()  # keep ratios that are too many tokens of a long clip

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings and notes of the requested answer, and the ratios that were skipped."""
        ratios = ", ".join(f"{ratio:g}" for ratio in self.left_out)
        left = (f"Skipped, as they would read more than {AT_ONCE:,} tokens: {ratios}.",) if ratios else ()
        answer = self.choices[self.asked].answer
        return (*answer.warnings, *answer.notes, *left)

    @property
    def nested(self) -> bool:
        """Whether every choice is part of the next larger one."""
        return all(set(fewer.kept) <= set(more.kept) for fewer, more in pairwise(self.choices))

    def kept(self, choice: Choice) -> ByKind:
        """The kept tokens of a choice, by their numbers in the clip."""
        return self.by_kind((i, self._numbers[i]) for i in choice.kept)

    def by_kind(self, numbers: Iterable[tuple[int, int]]) -> ByKind:
        """(index of a token, number) pairs, split by kind."""
        known = tuple(numbers)
        video = tuple(number for i, number in known if self.tokens[i].cell is not None)
        return ByKind(video, tuple(number for i, number in known if self.tokens[i].cell is None))

    @cached_property
    def _numbers(self) -> list[int]:
        """The number of each token among those of its kind in the whole clip, where the encoder may drop some."""
        step = {time: n for n, time in enumerate(torch.tensor(self.span.times).tolist())}  # of float32, as tokens have
        columns, cells, audio = self.span.columns, self.span.rows * self.span.columns, count()
        return [
            next(audio) if token.cell is None else step[token.time] * cells + token.cell[0] * columns + token.cell[1]
            for token in self.tokens
        ]

    @property
    def belief(self) -> str:
        """How far the kept tokens can be taken as the reason for the answer, in one sentence."""
        if self.form == "fused":
            return FUSED
        return EXTRACTIVE if self.form is not None else OTHER.format(self.reducer)


def explain(
    encoded: EncodedClip,
    clip: Clip,
    question: str,
    options: AskOptions,
    keeps: Sequence[float] = LADDER,
    on_progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Answer a question at the ratio of `options` and at `keeps`, fewest tokens first, and record what each run kept.

    `clip`: the encoded clip's frames and audio for display; its frames may be larger. As everywhere, a ratio of 1 is
    the run with all tokens (reducer `full`). Ratios that would read more than AT_ONCE tokens of a long clip are
    skipped. ModelError for cs2 without sieve weights.
    """
    model = encoded.model
    options = options.resolved(model.sieve is not None)
    model.check(options.reducer, options.keep)
    left_out = tuple(keep for keep in keeps if keep * encoded.media.span.tokens > AT_ONCE and keep != options.keep)
    keeps = [keep for keep in keeps if keep not in left_out]
    (asked,) = settings([options.reducer], [options.keep])
    ladder = sorted(settings([options.reducer], [*keeps, options.keep]), key=lambda setting: setting.keep)
    runs = [replace(options, reducer=setting.reducer, keep=setting.keep) for setting in ladder]
    if len(runs) > 1:  # the first run of a process is slower than the same run later
        encoded.ask(question, runs[0])
    choices = []
    tokens: tuple[Token, ...] = ()
    for done, (setting, chosen) in enumerate(zip(ladder, runs, strict=True), 1):
        record = _Record()
        answer = encoded.ask(question, chosen, record.take)
        tokens = record.tokens
        choices.append(Choice(setting, record.kept, record.scores, answer))
        if on_progress is not None:
            on_progress(done, len(ladder))
    choices.sort(key=lambda choice: len(choice.kept))
    sieve = model.sieve if options.reducer in SIEVED else None
    return Explanation(
        clip=replace(clip, source=encoded.source),
        question=question,
        model=model.backbone.name,
        reducer=options.reducer,
        form=None if sieve is None else sieve.options.form,
        span=encoded.media.span,
        tokens=tokens,
        choices=tuple(choices),
        asked=[choice.setting for choice in choices].index(asked),
        left_out=left_out,
    )


class _Record:
    """The choice of one run, off the device."""

    tokens: tuple[Token, ...] = ()
    kept: tuple[int, ...] = ()
    scores: tuple[float, ...] | None = None

    def take(self, stream: TokenStream, selection: Selection) -> None:
        """Record a selection of a stream of one row."""
        pool = stream.pool[0]
        where = zip(*(x[0, pool].tolist() for x in (stream.kind, stream.time, stream.cell)), strict=True)
        self.tokens = tuple(
            Token(KINDS[kind], time, None if row < 0 else (row, column)) for kind, time, (row, column) in where
        )
        self.kept = tuple(selection.keep[0, pool].nonzero()[:, 0].tolist())
        if selection.scores is not None:
            self.scores = tuple(selection.scores[0, pool].tolist())
