"""Timed answers summarised by setting: medians with their spread, and speedups over all tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from ..datasets.score import Score, normalise
from ..generation.answer import Answer
from ..reducers.setting import Setting
from ..report import Flops, StageTimes, Tokens

FULL = Setting("full", 1.0)
MEMORY = ("weights", "peak", "peak_llm")


@dataclass(frozen=True)
class Sample:
    """One answer about one clip. `repeat`: its round; a round runs every setting on every clip."""

    clip: Path
    repeat: int
    setting: Setting
    answer: Answer


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum over repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """None if a repeat has no value."""
        every = list(values)
        known = [value for value in every if value is not None]
        return cls(median(known), min(known), max(known)) if known and len(known) == len(every) else None


@dataclass(frozen=True)
class Reply:
    """The answer about one clip; `agrees`: it equals the answer from all tokens in every repeat."""

    clip: Path
    text: str
    tokens: int  # generated, the end mark included
    agrees: bool


@dataclass(frozen=True)
class Measured:
    """One setting. `tokens` are sums over the clips, times and FLOPs are means, memory is the maximum.

    `time_s`: a report's stages, and `llm`, the sum of select, prefill and generate. `memory_bytes`: `peak` of a whole
    answer, and `peak_llm` from token selection on. `measured` and `llm`: speedups within a repeat, end to end and of
    the LLM alone. `score`: of questions with known answers, if any.
    """

    setting: Setting
    tokens: Tokens
    time_s: dict[str, Spread | None]
    tokens_per_s: Spread | None  # decoding throughput
    memory_bytes: dict[str, Spread | None]
    flops: Flops
    measured: Spread
    llm: Spread
    replies: tuple[Reply, ...]
    score: Score | None = None

    @property
    def agreement(self) -> float:
        """The share of clips whose answer equals the one from all tokens."""
        return sum(reply.agrees for reply in self.replies) / len(self.replies)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: medians under the names of `ep ask --json`, their extremes under `spread`."""
        speedup = {"measured": self.measured, "llm": self.llm}
        score = asdict(self.score) if self.score else dict.fromkeys(field.name for field in fields(Score))
        return {
            **self.setting.as_dict(),
            "answer": self.replies[0].text if len(self.replies) == 1 else None,
            "agreement": self.agreement,
            "tokens": {**asdict(self.tokens), "kept_ratio": self.tokens.kept_ratio},
            "time_s": _medians(self.time_s),
            "tokens_per_s": self.tokens_per_s and self.tokens_per_s.median,
            "memory_bytes": {name: None if n is None else round(n) for name, n in _medians(self.memory_bytes).items()},
            "flops": asdict(self.flops),
            "speedup": {"estimated": self.flops.full / self.flops.reduced, **_medians(speedup)},
            **score,
            "spread": {
                "time_s": _extremes(self.time_s),
                "tokens_per_s": _extreme(self.tokens_per_s),
                "memory_bytes": _extremes(self.memory_bytes),
                "speedup": _extremes(speedup),
            },
            "answers": [{**asdict(reply), "clip": str(reply.clip)} for reply in self.replies],
        }


def fold(chosen: Sequence[Setting], samples: Iterable[Sample]) -> tuple[Measured, ...]:
    """One Measured a setting. FULL must be among them; every round has the same clips under every setting."""
    rounds: dict[Setting, dict[int, list[Sample]]] = {setting: {} for setting in chosen}
    for sample in samples:
        rounds[sample.setting].setdefault(sample.repeat, []).append(sample)
    full = list(rounds[FULL].values())
    return tuple(_measured(setting, list(mine.values()), full) for setting, mine in rounds.items())


def _measured(setting: Setting, rounds: list[list[Sample]], full: list[list[Sample]]) -> Measured:
    """Summarise the rounds of a setting and those of the full run; each round has the clips in one order."""
    times, whole = [_times(one) for one in rounds], [_times(one) for one in full]
    reports = [sample.answer.report for sample in rounds[0]]
    return Measured(
        setting=setting,
        tokens=Tokens.total(report.tokens for report in reports),
        time_s={name: Spread.of(one[name] for one in times) for name in times[0]},
        tokens_per_s=Spread.of(map(_tokens_per_s, rounds)),
        memory_bytes={name: Spread.of(_most(one, name) for one in rounds) for name in MEMORY},
        flops=Flops(_mean(report.flops.full for report in reports), _mean(report.flops.reduced for report in reports)),
        measured=_ratios(whole, times, "total"),
        llm=_ratios(whole, times, "llm"),
        replies=tuple(_replies(rounds, full)),
    )


def _times(clips: Sequence[Sample]) -> dict[str, float | None]:
    """Mean seconds of a clip by stage in one round; None for a stage that did not run."""
    spent = [sample.answer.report.time_s for sample in clips]
    stages = sum(spent, StageTimes()) / len(spent)
    return {**stages.as_dict(), "llm": stages.llm}


def _ratios(full: list[dict[str, float | None]], mine: list[dict[str, float | None]], name: str) -> Spread:
    """The speedup over the full run, within each round."""
    found = Spread.of((a[name] or 0.0) / (b[name] or 1.0) for a, b in zip(full, mine, strict=True))
    assert found is not None, "every answer has a total time"
    return found


def _tokens_per_s(clips: Sequence[Sample]) -> float | None:
    """Decoding throughput after the first token; None without such tokens."""
    seconds = sum(sample.answer.report.time_s.generate or 0.0 for sample in clips)
    return sum(len(sample.answer.token_ids) - 1 for sample in clips) / seconds if seconds else None


def _most(clips: Sequence[Sample], name: str) -> float | None:
    sizes = [getattr(sample.answer.report.memory_bytes, name) for sample in clips]
    return max((size for size in sizes if size is not None), default=None)


def _replies(rounds: list[list[Sample]], full: list[list[Sample]]) -> Iterator[Reply]:
    for mine, whole in zip(zip(*rounds, strict=True), zip(*full, strict=True), strict=True):
        agrees = all(normalise(a.answer.text) == normalise(b.answer.text) for a, b in zip(mine, whole, strict=True))
        yield Reply(mine[0].clip, mine[0].answer.text, len(mine[0].answer.token_ids), agrees)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def _medians(spreads: dict[str, Spread] | dict[str, Spread | None]) -> dict[str, float | None]:
    return {name: one.median if one else None for name, one in spreads.items()}


def _extremes(spreads: dict[str, Spread] | dict[str, Spread | None]) -> dict[str, dict[str, float | None]]:
    return {name: _extreme(one) for name, one in spreads.items()}


def _extreme(spread: Spread | None) -> dict[str, float | None]:
    return {"min": spread.low, "max": spread.high} if spread else {"min": None, "max": None}
