"""Answers to a file of questions under several reducers and keep ratios, scored. Knows nothing about printing.

Every clip is decoded and encoded once; questions, of several clips where they are short, go through each setting as
padded batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from .errors import EpError
from .generate import Text, stream_tokens
from .media import read_clip
from .model import EchoingPixels
from .options import Auto, GenerateOptions, Keep, MediaOptions, check_choice, plain_keep
from .questions import Row
from .score import Score, is_right, score
from .stats import Stopwatch, Tokens
from .stream import Stream, pad

TOKENS_AT_ONCE = 16_384  # in one padded batch of questions; a longer prompt goes alone
STAGES = ("decode", "prepare", "encode", "select", "prefill", "generate")


@dataclass(frozen=True)
class Setting:
    """How tokens are chosen in one run."""

    reducer: str
    keep: Keep

    @property
    def ratio(self) -> float:
        """The keep ratio. Auto has none before it has run."""
        assert not isinstance(self.keep, Auto), f"{self.keep} is no ratio"
        return self.keep

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"reducer": self.reducer, "keep": plain_keep(self.keep)}


@dataclass(frozen=True)
class Outcome:
    """What came of one question under one setting: an answer, right or not, and its tokens; or why its clip failed."""

    row: Row
    setting: Setting
    answer: str | None
    right: bool | None
    error: str | None = None
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Run:
    """One setting's scores, its tokens and seconds summed over all answered questions.

    Reading and encoding a clip is done once for all runs and counted in each. `outcomes` are in one order in all runs.
    """

    setting: Setting
    score: Score
    by_kind: dict[str, Score]
    by_regime: dict[str, Score]
    tokens: Tokens
    tokens_by_regime: dict[str, Tokens]
    time_s: dict[str, float]
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class _Asked:
    """One question ready to be answered, and the seconds that took; or why its clip failed."""

    row: Row
    stream: Stream | None
    seconds: dict[str, float]
    error: str | None = None

    @property
    def tokens(self) -> int:
        return 0 if self.stream is None else self.stream.mask.shape[1]


@dataclass
class _Tally:
    """A run in the making."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


def settings(reducers: Iterable[str], keeps: Iterable[Keep]) -> list[Setting]:
    """The runs to make: one `full` if 1 is among the ratios, and each reducer at each ratio below 1, or auto.

    At 1 every reducer but cs2 is `full`, and cs2 is asked for what it saves: its encoder at keep 1 is no run here.
    """
    ratios, names = list(dict.fromkeys(keeps)), list(dict.fromkeys(reducers))
    for name in names:
        for keep in ratios:
            check_choice("cs2" if name == "full" else name, keep)  # full takes no notice
    whole = [Setting("full", 1.0)] if 1 in ratios or "full" in names else []
    return whole + [Setting(name, keep) for name in names if name != "full" for keep in ratios if keep != 1]


def evaluate(
    model: EchoingPixels,
    rows: Sequence[Row],
    chosen: Sequence[Setting],
    media: MediaOptions | None = None,
    generate: GenerateOptions | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Run]:
    """Answer all rows under every setting; returns one Run each.

    `on_outcome` gets each result as it comes, `on_progress` the clips done and in all. A clip that cannot be read
    fails its questions and nothing else. ModelError for cs2 without sieve weights.
    """
    for setting in chosen:
        model.check(setting.reducer, setting.keep)
    tallies = {setting: _Tally() for setting in chosen}
    clips: dict[Any, list[Row]] = {}
    for row in rows:
        clips.setdefault(row.clip, []).append(row)
    asked = chain.from_iterable(
        _look(model, group, media or MediaOptions(), on_progress and partial(on_progress, done, len(clips)))
        for done, group in enumerate(clips.values(), 1)
    )
    for part in _batches(asked):
        for setting, tally in tallies.items():
            for outcome in _outcomes(model, part, setting, tally, generate or GenerateOptions()):
                tally.outcomes.append(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
    return [_run(setting, tally) for setting, tally in tallies.items()]


def _look(
    model: EchoingPixels, group: list[Row], media: MediaOptions, on_done: Callable[[], None] | None
) -> list[_Asked]:
    """All questions about one clip, which is read and encoded once."""
    path, start, end = group[0].clip
    began = time.perf_counter()
    asked: list[_Asked] = []
    try:
        clip = read_clip(path, media, start=start, end=end, frame_size=model.frame_size)
        looked = model.look(clip, time.perf_counter() - began)
        for row in group:
            watch = Stopwatch(looked.watch.device) if asked else looked.watch  # the clip's own cost counts once
            with watch.stage("prepare"):
                stream = model.embed(model.prepare(looked.media, row.question), (looked.features,))
            asked.append(_Asked(row, stream, watch.seconds))
    except EpError as error:
        asked = [_Asked(row, None, {}, error.message) for row in group]
    if on_done is not None:
        on_done()
    return asked


def _batches(asked: Iterable[_Asked]) -> Iterator[list[_Asked]]:
    """Questions in order, as many at once as stay under TOKENS_AT_ONCE when padded; of any number of clips."""
    part: list[_Asked] = []
    longest = 0
    for one in asked:
        longest = max(longest, one.tokens)
        if part and longest * (len(part) + 1) > TOKENS_AT_ONCE:
            yield part
            part, longest = [], one.tokens
        part.append(one)
    if part:
        yield part


def _outcomes(
    model: EchoingPixels, part: list[_Asked], setting: Setting, tally: _Tally, generate: GenerateOptions
) -> Iterator[Outcome]:
    """What comes of one batch under one setting, in order."""
    for one in part:
        for name, seconds in one.seconds.items():
            if name in tally.seconds:
                tally.seconds[name] += seconds
    streams = [one.stream for one in part if one.stream is not None]
    answers = iter(_answers(model, pad(streams), setting, tally, generate) if streams else ())
    for one in part:
        if one.stream is None:
            yield Outcome(one.row, setting, None, None, one.error)
        else:
            text, tokens = next(answers)
            yield Outcome(one.row, setting, text, is_right(text, one.row.answer), tokens=tokens)


def _answers(
    model: EchoingPixels, stream: Stream, setting: Setting, tally: _Tally, generate: GenerateOptions
) -> list[tuple[str, Tokens]]:
    """The answers of one padded batch, and each row's tokens."""
    watch = Stopwatch(model.backbone.device, tally.seconds)
    with watch.stage("select"):
        kept = stream.take(model.select(stream, setting.reducer, setting.keep))
    texts = [Text(model.backbone) for _ in range(len(stream.mask))]
    for tokens in stream_tokens(model.backbone, kept, generate, watch):
        for text, token in zip(texts, tokens.tolist(), strict=True):
            if token >= 0:
                text.push(token)
    counts = zip(stream.row_counts(), kept.row_counts(), strict=True)
    return [(text.text, Tokens.of(*both)) for text, both in zip(texts, counts, strict=True)]


def _run(setting: Setting, tally: _Tally) -> Run:
    def tokens(regime: str | None = None) -> Tokens:
        every = (o for o in tally.outcomes if regime is None or o.row.regime == regime)
        return Tokens.total(o.tokens for o in every if o.tokens is not None)

    def by(key: Callable[[Row], str]) -> dict[str, Score]:
        names = sorted({key(outcome.row) for outcome in tally.outcomes} - {""})
        return {name: score(o.right for o in tally.outcomes if key(o.row) == name) for name in names}

    regimes = by(lambda row: row.regime)
    return Run(
        setting=setting,
        score=score(outcome.right for outcome in tally.outcomes),
        by_kind=by(lambda row: row.kind),
        by_regime=regimes,
        tokens=tokens(),
        tokens_by_regime={regime: tokens(regime) for regime in regimes},
        time_s={**tally.seconds, "total": sum(tally.seconds.values())},
        outcomes=tuple(tally.outcomes),
    )
