"""The totals of a batch: answers, failures, tokens, seconds by stage, and utilisation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .result import STAGES, Result

READING = ("fetch", "decode")


@dataclass
class Tally:
    """Totals over the results of one run. `rows`: requested; `workers`: readers of clips; `models`: loaded models."""

    rows: int
    workers: int = 1
    models: int = 1
    reading: float = 0.0  # s of reading by all workers since `begin`
    skipped: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    kept: float = 0.0  # sum of keep ratios
    tokens: int = 0
    saved: int = 0
    later: int = 0  # generated tokens after the first of each answer
    cached: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    clips: set[tuple[str, float | None, float | None]] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def begin(self) -> None:
        """Start the clock; the model is loaded."""
        self.began = time.monotonic()

    def end(self) -> None:
        """Stop the clock."""
        self.ended = time.monotonic()

    def add(self, results: Iterable[Result]) -> None:
        """Add results."""
        for one in results:
            self.clips.add((one.media, one.start, one.end))
            for stage, seconds in one.time_s.items():
                self.seconds[stage] += seconds
            if one.error is not None:
                self.failures[one.error.kind] += 1
                continue
            self.answered += 1
            self.cached += one.cached
            self.kept += one.kept_ratio or 0.0
            counts = (one.tokens or {}).values()
            self.tokens += sum(count["before"] for count in counts)
            self.saved += sum(count["before"] - count["after"] for count in counts)
            self.later += (one.said or 1) - 1

    @property
    def done(self) -> int:
        """Rows in the output."""
        return self.skipped + self.answered + self.failed

    @property
    def failed(self) -> int:
        """Rows that failed in this run."""
        return self.failures.total()

    @property
    def wall(self) -> float:
        """Seconds of this run."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def per_minute(self) -> float:
        """Clips per minute."""
        return 60 * len(self.clips) / self.wall if self.wall else 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """Decoding throughput after the first token of each answer; None without such tokens."""
        return self.later / self.seconds["generate"] if self.seconds["generate"] else None

    def use(self) -> dict[str, float]:
        """The share of wall time in which the readers and the models were busy."""
        answering = sum(seconds for stage, seconds in self.seconds.items() if stage not in READING)
        wall = max(self.wall, 1e-9)
        return {"reading": self.reading / wall / self.workers, "answering": answering / wall / self.models}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        total = sum(self.seconds.values())
        return {
            "rows": self.rows,
            "skipped": self.skipped,
            "answered": self.answered,
            "failed": dict(self.failures),
            "kept_ratio": self.kept / self.answered if self.answered else None,
            "tokens": {"before": self.tokens, "saved": self.saved},
            "cached": self.cached,
            "clips": len(self.clips),
            "clips_per_minute": self.per_minute,
            "wall_s": self.wall,
            "tokens_per_s": self.tokens_per_s,
            "time_s": self.seconds,
            "share": {stage: seconds / total if total else 0.0 for stage, seconds in self.seconds.items()},
            "use": self.use(),
        }
