"""Answers to a file of questions under several reducers and keep ratios, scored. Knows nothing about printing.

Every clip is decoded and encoded once; questions, of several clips where they are short, go through each setting as
padded batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

from .clip import Clip
from .errors import EpError
from .generate import Text, stream_tokens
from .media import Reader, read_clip
from .model import EchoingPixels
from .options import Auto, GenerateOptions, Keep, MediaOptions, check_choice, plain_keep
from .positions import KINDS
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
    """What came of one question under one setting: an answer that is right or not, or why its clip failed."""

    row: Row
    setting: Setting
    answer: str | None
    right: bool | None
    error: str | None = None


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
    before: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    after: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
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
    reader: Reader | None = None,
) -> list[Run]:
    """Answer all rows under every setting; returns one Run each.

    `on_outcome` gets each result as it comes, `on_progress` the clips done and in all. `reader` reads the clips: a
    worker's `read`, or `read_clip` if left out. A clip that cannot be read fails its questions and nothing else.
    ModelError for cs2 without sieve weights.
    """
    for setting in chosen:
        model.check(setting.reducer, setting.keep)
    tallies = {setting: _Tally() for setting in chosen}
    clips: dict[Any, list[Row]] = {}
    for row in rows:
        clips.setdefault(row.clip, []).append(row)
    read = partial(_read, reader or read_clip, media or MediaOptions(), model)
    asked = chain.from_iterable(
        _look(model, group, read, on_progress and partial(on_progress, done, len(clips)))
        for done, group in enumerate(clips.values(), 1)
    )
    for part in _batches(asked):
        for setting, tally in tallies.items():
            for outcome in _outcomes(model, part, setting, tally, generate or GenerateOptions()):
                tally.outcomes.append(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
    return [_run(setting, tally) for setting, tally in tallies.items()]


def _read(reader: Reader, media: MediaOptions, model: EchoingPixels, row: Row) -> Clip:
    path, start, end = row.clip
    return reader(path, replace(media, start=start, end=end, frame_size=model.frame_size))


def _look(
    model: EchoingPixels, group: list[Row], read: Callable[[Row], Clip], on_done: Callable[[], None] | None
) -> list[_Asked]:
    """All questions about one clip, which is read and encoded once."""
    began = time.perf_counter()
    asked: list[_Asked] = []
    try:
        clip = read(group[0])
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
    texts = iter(_answers(model, pad(streams), setting, tally, generate) if streams else ())
    for one in part:
        if one.stream is None:
            yield Outcome(one.row, setting, None, None, one.error)
        else:
            text = next(texts)
            yield Outcome(one.row, setting, text, is_right(text, one.row.answer))


def _answers(
    model: EchoingPixels, stream: Stream, setting: Setting, tally: _Tally, generate: GenerateOptions
) -> list[str]:
    """The answers of one padded batch."""
    watch = Stopwatch(model.backbone.device, tally.seconds)
    with watch.stage("select"):
        kept = stream.take(model.select(stream, setting.reducer, setting.keep))
    for counts, new in ((tally.before, stream.counts()), (tally.after, kept.counts())):
        for kind, n in new.items():
            counts[kind] += n
    texts = [Text(model.backbone) for _ in range(len(stream.mask))]
    for tokens in stream_tokens(model.backbone, kept, generate, watch):
        for text, token in zip(texts, tokens.tolist(), strict=True):
            if token >= 0:
                text.push(token)
    return [text.text for text in texts]


def _run(setting: Setting, tally: _Tally) -> Run:
    def by(key: Callable[[Row], str]) -> dict[str, Score]:
        names = sorted({key(outcome.row) for outcome in tally.outcomes} - {""})
        return {name: score(o.right for o in tally.outcomes if key(o.row) == name) for name in names}

    return Run(
        setting=setting,
        score=score(outcome.right for outcome in tally.outcomes),
        by_kind=by(lambda row: row.kind),
        by_regime=by(lambda row: row.regime),
        tokens=Tokens.of(tally.before, tally.after),
        time_s={**tally.seconds, "total": sum(tally.seconds.values())},
        outcomes=tuple(tally.outcomes),
    )
