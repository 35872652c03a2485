"""Answers to a file of questions under several reducers and keep ratios, scored. Knows nothing about printing.

Every clip is decoded and encoded once; questions, of several clips where they are short, go through each setting as
padded batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

from ..batched import Asked, Said, answers, ask, batches
from ..datasets.choices import chosen
from ..datasets.questions import Row
from ..datasets.score import Score, is_right, score
from ..errors import EpError
from ..media import Reader, stream_clip
from ..media.clip import Pieces
from ..model import EchoingPixels
from ..options import AskOptions, GenerateOptions, MediaOptions
from ..reducers.setting import Setting
from ..report import Stopwatch, Tokens

STAGES = ("decode", "prepare", "encode", "select", "prefill", "generate")


@dataclass(frozen=True)
class Outcome:
    """What came of one question under one setting: an answer, right or not, and its tokens; or why it failed.

    `unparsed`: the answer names none of the row's choices, or several. `notes`: why it is not to be trusted.
    """

    row: Row
    setting: Setting
    answer: str | None
    right: bool | None
    error: str | None = None
    tokens: Tokens | None = None
    unparsed: bool = False
    notes: tuple[str, ...] = ()


Known = Callable[[Row, Setting], Outcome | None]


def unknown(row: Row, setting: Setting) -> None:
    """Nothing is known before."""


@dataclass(frozen=True)
class Run:
    """One setting's scores, its tokens and seconds summed over all answered questions.

    Reading and encoding a clip is done once for all runs and counted in each. `outcomes` are in one order in all runs.
    Seconds are those of the answers made now: none of answers that were known before.
    """

    setting: Setting
    score: Score
    by_kind: dict[str, Score]
    by_regime: dict[str, Score]
    tokens: Tokens
    tokens_by_regime: dict[str, Tokens]
    time_s: dict[str, float]
    outcomes: tuple[Outcome, ...]


@dataclass
class _Tally:
    """A run in the making."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


def evaluate(
    model: EchoingPixels,
    rows: Sequence[Row],
    chosen: Sequence[Setting],
    media: MediaOptions | None = None,
    generate: GenerateOptions | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    reader: Reader | None = None,
    known: Known = unknown,
    fails: bool = True,
) -> list[Run]:
    """Answer all rows under every setting; returns one Run each.

    `on_outcome` gets each new result as it comes, `on_progress` the clips done and in all. `reader` reads the clips: a
    worker's `stream`, or `stream_clip` if left out. `known`: outcomes of an evaluation that was cut short, which are
    not made again. A clip that cannot be read, or needs more memory than is free, fails its questions and nothing
    else; without `fails` an error while answering is raised. ModelError for cs2 without sieve weights.
    """
    for setting in chosen:
        model.check(setting.reducer, setting.keep)
    clips: dict[Any, list[Row]] = {}
    for row in rows:
        clips.setdefault(row.clip, []).append(row)
    ordered = list(chain.from_iterable(clips.values()))
    found = {setting: [known(row, setting) for row in ordered] for setting in chosen}
    tallies = {setting: _Tally([one for one in found[setting] if one is not None]) for setting in chosen}
    parts = ([row for row in group if _is_open(row, chosen, known)] for group in clips.values())
    groups = [part for part in parts if part]
    read = partial(_read, reader or stream_clip, media or MediaOptions(), model)
    asked = chain.from_iterable(
        _look(model, group, read, on_progress and partial(on_progress, done, len(groups)))
        for done, group in enumerate(groups, 1)
    )
    for part in batches(asked):
        for setting, tally in tallies.items():
            rest = [one for one in part if known(one.row, setting) is None]
            for outcome in _outcomes(model, rest, setting, tally, generate or GenerateOptions(), fails):
                tally.outcomes.append(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
    place = {id(row): i for i, row in enumerate(ordered)}
    for tally in tallies.values():
        tally.outcomes.sort(key=lambda outcome: place[id(outcome.row)])
    return [_run(setting, tally) for setting, tally in tallies.items()]


def _is_open(row: Row, chosen: Sequence[Setting], known: Known) -> bool:
    return any(known(row, setting) is None for setting in chosen)


def _read(reader: Reader, media: MediaOptions, model: EchoingPixels, row: Row) -> Pieces:
    path, start, end = row.clip
    return reader(path, replace(media, start=start, end=end), frame_size=model.frame_size)


def _look(
    model: EchoingPixels, group: list[Row], read: Callable[[Row], Pieces], on_done: Callable[[], None] | None
) -> list[Asked[Row]]:
    """All questions about one clip, which is read and encoded once."""
    try:
        asked = ask(model.look(read(group[0])), group)
    except EpError as error:
        asked = [Asked(row, None, None, {}, error) for row in group]
    if on_done is not None:
        on_done()
    return asked


def _outcomes(
    model: EchoingPixels,
    part: list[Asked[Row]],
    setting: Setting,
    tally: _Tally,
    generate: GenerateOptions,
    fails: bool,
) -> Iterator[Outcome]:
    """What comes of one batch under one setting, in order."""
    for one in part:
        for name, seconds in one.seconds.items():
            if name in tally.seconds:
                tally.seconds[name] += seconds
    sound = [one for one in part if one.error is None]
    options = AskOptions(setting.reducer, setting.keep, generate)
    watch = Stopwatch(model.backbone.device, tally.seconds)
    said = iter((_answers if fails else answers)(model, sound, options, watch) if sound else ())
    for one in part:
        answer = one.error or next(said)
        if isinstance(answer, EpError):
            yield Outcome(one.row, setting, None, None, answer.message)
        else:
            notes = () if one.looked is None else model.world_note(one.looked.ending.source)
            outcome = marked(one.row, setting, answer.text, Tokens.of(answer.before, answer.after))
            yield replace(outcome, notes=notes)


def _answers(
    model: EchoingPixels, asked: Sequence[Asked[Row]], options: AskOptions, watch: Stopwatch
) -> Sequence[Said | EpError]:
    """The answers to one batch, in order. Where it fails, each question is tried alone."""
    try:
        return answers(model, asked, options, watch)
    except EpError as error:
        failed = error.with_traceback(None)  # which holds what took the memory
    if len(asked) == 1:
        return [failed]
    return [found for one in asked for found in _answers(model, [one], options, watch)]


def marked(row: Row, setting: Setting, answer: str, tokens: Tokens) -> Outcome:
    """The outcome of an answer."""
    named = chosen(answer, row.choices) if row.choices else answer
    right = named is not None and is_right(named, row.answer)
    return Outcome(row, setting, answer, right, tokens=tokens, unparsed=named is None)


def _run(setting: Setting, tally: _Tally) -> Run:
    def tokens(regime: str | None = None) -> Tokens:
        every = (o for o in tally.outcomes if regime is None or o.row.regime == regime)
        return Tokens.total(o.tokens for o in every if o.tokens is not None)

    def scored(group: list[Outcome]) -> Score:
        return score((outcome.right for outcome in group), sum(outcome.unparsed for outcome in group))

    def by(key: Callable[[Row], str]) -> dict[str, Score]:
        names = sorted({key(outcome.row) for outcome in tally.outcomes} - {""})
        return {name: scored([o for o in tally.outcomes if key(o.row) == name]) for name in names}

    regimes = by(lambda row: row.regime)
    return Run(
        setting=setting,
        score=scored(tally.outcomes),
        by_kind=by(lambda row: row.kind),
        by_regime=regimes,
        tokens=tokens(),
        tokens_by_regime={regime: tokens(regime) for regime in regimes},
        time_s={**tally.seconds, "total": sum(tally.seconds.values())},
        outcomes=tuple(tally.outcomes),
    )
