"""What an answer cost: tokens by kind, time by stage, memory, and floating-point operations from the model's shapes.

Knows nothing about how any of it was spent.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

TOKEN_KINDS = ("video", "audio", "image", "text")
STAGES = ("load", "decode", "prepare", "encode", "select", "prefill", "generate", "first_token", "total")


@dataclass(frozen=True)
class TokenCount:
    """Tokens of one kind before and after selection."""

    before: int
    after: int


@dataclass(frozen=True)
class Tokens:
    """The token budget of a prompt."""

    video: TokenCount
    audio: TokenCount
    image: TokenCount
    text: TokenCount

    @property
    def kept_ratio(self) -> float:
        """Kept share of the audio, video and image tokens; 1 where there are none."""
        pool = (self.video, self.audio, self.image)
        before = sum(count.before for count in pool)
        return sum(count.after for count in pool) / before if before else 1.0

    @classmethod
    def of(cls, before: dict[str, int], after: dict[str, int]) -> Tokens:
        return cls(**{kind: TokenCount(before[kind], after[kind]) for kind in TOKEN_KINDS})

    @classmethod
    def total(cls, each: Iterable[Tokens]) -> Tokens:
        """All of them together."""
        before, after = dict.fromkeys(TOKEN_KINDS, 0), dict.fromkeys(TOKEN_KINDS, 0)
        for one in each:
            for kind in TOKEN_KINDS:
                count: TokenCount = getattr(one, kind)
                before[kind] += count.before
                after[kind] += count.after
        return cls.of(before, after)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "kept_ratio": self.kept_ratio}


@dataclass(frozen=True)
class Report:
    """What one answer cost.

    `time_s`: seconds by stage. `first_token` runs from opening the file to the first token, `total` to the last one;
    both leave out `load`. `memory_bytes`: `weights`, and the process's `peak` from preparing the clip on (on CUDA the
    device's), None where it cannot be measured. `flops`: `full` and `reduced`, estimated from shapes, towers included.
    `speedup`: `estimated` is the ratio of those; `measured` is None unless the full run was really made. `encoded`:
    tokens by kind that the towers made; the others of `tokens` repeat one of these, or were never there.
    `tokens_per_s`: after the first one, said in so many `steps`: fewer than tokens where guesses were right.
    """

    tokens: Tokens
    time_s: dict[str, float | None]
    memory_bytes: dict[str, int | None]
    flops: dict[str, float]
    speedup: dict[str, float | None]
    encoded: dict[str, int] = field(default_factory=dict)
    tokens_per_s: float | None = None
    steps: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "tokens": self.tokens.as_dict()}


class Stopwatch:
    """Adds up the host's seconds by stage, and counts how often each was timed.

    It does not wait for the device: a stage whose numbers the host does not read itself ends with `wait`. What a device
    does while the host decodes the next frames is timed once, where the host waits for it.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float] | None = None) -> None:
        self.device = device
        self.seconds = {} if seconds is None else seconds
        self.times: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside as part of `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            self.times[name] += 1

    def wait(self) -> None:
        """Wait until the device has done all its work; inside the stage that it belongs to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def summary(self) -> dict[str, float | None]:
        """Every stage in order, None where nothing was timed; first_token and total from the parts."""
        known: dict[str, float | None] = {name: self.seconds.get(name) for name in STAGES}
        first = sum(self.seconds.get(name, 0.0) for name in STAGES[1:6])
        known["first_token"] = first
        known["total"] = first + self.seconds.get("generate", 0.0)
        return known


def decoding_rate(said: int, seconds: float | None) -> float | None:
    """Tokens a second after the first, of so many said; None where there are none."""
    return (said - 1) / seconds if said > 1 and seconds else None


def reset_peak(device: torch.device) -> bool:
    """Start a new peak; False where that cannot be done: it can on CUDA, and of a process on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def peak_memory(device: torch.device) -> int | None:
    """Bytes: CUDA's peak allocation, or the process's peak resident size; None where the system reports none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):  # getrusage counts what ran before exec and cannot be reset
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
