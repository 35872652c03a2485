"""Answers to questions with known answers under several reducers and keep ratios, scored.

Every clip is decoded and encoded once; its questions, with those of other clips where they are short, go through each
setting in padded batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from ..batching import Prompt, answer_each, batches
from ..datasets.choices import chosen
from ..datasets.questions import Row
from ..datasets.score import Score, is_right, score
from ..errors import EpError
from ..features.cache import FeatureCache
from ..generation.answer import Answer
from ..media import Reader
from ..model import EchoingPixels
from ..options import AskOptions, GenerateOptions, MediaOptions
from ..reducers.setting import Setting
from ..report import StageTimes, Tokens


@dataclass(frozen=True)
class Outcome:
    """The result of one question under one setting: an answer, right or not, and its tokens; or why it failed.

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
    """No earlier outcomes."""


@dataclass(frozen=True)
class Run:
    """One setting's scores, its tokens and seconds summed over all answered questions.

    Reading and encoding a clip is done once for all runs and counted in each. `outcomes` are in one order in all runs.
    Seconds are those of the answers made now, without `load`: earlier answers add none.
    """

    setting: Setting
    score: Score
    by_kind: dict[str, Score]
    by_regime: dict[str, Score]
    tokens: Tokens
    tokens_by_regime: dict[str, Tokens]
    time_s: StageTimes
    outcomes: tuple[Outcome, ...]


@dataclass
class _Tally:
    """The outcomes and seconds of a run so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    time_s: StageTimes = field(default_factory=StageTimes)


@dataclass(frozen=True)
class _Asked:
    """A row with its prompt, or the error of its clip. `first`: the seconds of the clip count in this row."""

    row: Row
    prompt: Prompt | EpError
    first: bool

    @property
    def tokens(self) -> int:
        return 0 if isinstance(self.prompt, EpError) else self.prompt.tokens


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
    cache: FeatureCache | None = None,
) -> list[Run]:
    """Answer all rows under every setting; returns one Run each.

    `on_outcome` gets each new outcome, `on_progress` the clips done and in all. `reader` reads the clips: a worker's
    `stream`; None: `stream_clip`. `known`: outcomes of an interrupted evaluation, which are not repeated.
    `cache`: of the clips' features. A clip that cannot be read, or needs more memory than is free, fails its questions
    and nothing else. ModelError for cs2 without sieve weights.
    """
    for setting in chosen:
        model.check(setting.reducer, setting.keep)
    clips: dict[Any, list[Row]] = {}
    for row in rows:
        clips.setdefault(row.clip, []).append(row)
    ordered = list(chain.from_iterable(clips.values()))
    tallies = {
        setting: _Tally([one for row in ordered if (one := known(row, setting)) is not None]) for setting in chosen
    }

    def asked() -> Iterator[_Asked]:
        """Prompts about clips, each read and encoded once."""
        parts = ([row for row in group if _is_open(row, chosen, known)] for group in clips.values())
        groups = [part for part in parts if part]
        for done, group in enumerate(groups, 1):
            path, start, end = group[0].clip
            read = media or MediaOptions()
            read = replace(read, start=read.start if start is None else start, end=read.end if end is None else end)
            try:
                clip = model.encode(path, read, cache=cache, reader=reader)
                made = [_Asked(row, clip.prompt(row.question), i == 0) for i, row in enumerate(group)]
            except EpError as error:
                made = [_Asked(row, error, first=False) for row in group]
            if on_progress is not None:
                on_progress(done, len(groups))
            yield from made

    for part in batches(asked()):
        for setting, tally in tallies.items():
            rest = [one for one in part if known(one.row, setting) is None]
            for outcome in _outcomes(model, rest, setting, tally, generate or GenerateOptions()):
                tally.outcomes.append(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
    place = {id(row): i for i, row in enumerate(ordered)}
    for tally in tallies.values():
        tally.outcomes.sort(key=lambda outcome: place[id(outcome.row)])
    return [_run(setting, tally) for setting, tally in tallies.items()]


def _is_open(row: Row, chosen: Sequence[Setting], known: Known) -> bool:
    return any(known(row, setting) is None for setting in chosen)


def _outcomes(
    model: EchoingPixels,
    part: list[_Asked],
    setting: Setting,
    tally: _Tally,
    generate: GenerateOptions,
) -> Iterator[Outcome]:
    """The outcomes of one batch under one setting, in order."""
    options = AskOptions(setting.reducer, setting.keep, generate, evidence=False)
    prompts = [one.prompt for one in part if not isinstance(one.prompt, EpError)]
    answers = iter(answer_each(model, prompts, options, EpError))
    for one in part:
        answer = one.prompt if isinstance(one.prompt, EpError) else next(answers)
        if isinstance(one.prompt, Prompt):
            tally.time_s += _seconds(one.prompt, answer, one.first)
        if isinstance(answer, EpError):
            yield Outcome(one.row, setting, None, None, answer.message)
            continue
        assert isinstance(one.prompt, Prompt), "answered"
        outcome = marked(one.row, setting, answer.text, answer.report.tokens)
        yield replace(outcome, notes=model.world_note(one.prompt.clip.source))


def _seconds(prompt: Prompt, answer: Answer | EpError, first: bool) -> StageTimes:
    """The seconds of one question: to prepare and answer it, and with `first` to read and encode its clip."""
    clip = prompt.clip.time_s
    spent = prompt.time_s if isinstance(answer, EpError) else answer.report.time_s - clip
    return replace(spent + clip if first else spent, load=None)


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
        time_s=tally.time_s,
        outcomes=tuple(tally.outcomes),
    )
