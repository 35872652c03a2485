"""The cost of an answer: tokens by kind, seconds by stage, bytes, floating-point operations and speedups."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

TOKEN_KINDS = ("video", "audio", "image", "text")


@dataclass(frozen=True)
class TokenCounts:
    """Numbers of tokens by kind."""

    video: int = 0
    audio: int = 0
    image: int = 0
    text: int = 0

    @property
    def pool(self) -> int:
        """Video, audio and image tokens, which compete for one budget."""
        return self.video + self.audio + self.image

    @property
    def total(self) -> int:
        """All tokens."""
        return self.pool + self.text

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(*(getattr(self, kind) + getattr(other, kind) for kind in TOKEN_KINDS))

    @classmethod
    def mean(cls, by_layer: Sequence[TokenCounts]) -> TokenCounts:
        """The mean over a decoder's layers, rounded."""
        total = sum(by_layer, cls())
        return cls(*(round(getattr(total, kind) / len(by_layer)) for kind in TOKEN_KINDS))


@dataclass(frozen=True)
class TokenCount:
    """Tokens of one kind before and after selection: `after` is the mean over the decoder's layers."""

    before: int
    after: int


@dataclass(frozen=True)
class Tokens:
    """The token budget of one prompt, or of several."""

    video: TokenCount
    audio: TokenCount
    image: TokenCount
    text: TokenCount

    @property
    def before(self) -> TokenCounts:
        """Counts before selection."""
        return TokenCounts(*(getattr(self, kind).before for kind in TOKEN_KINDS))

    @property
    def after(self) -> TokenCounts:
        """Counts after selection."""
        return TokenCounts(*(getattr(self, kind).after for kind in TOKEN_KINDS))

    @property
    def kept_ratio(self) -> float:
        """Kept share of the audio, video and image tokens; 1 where there are none."""
        before = self.before.pool
        return self.after.pool / before if before else 1.0

    @classmethod
    def of(cls, before: TokenCounts, after: TokenCounts) -> Tokens:
        """The budget from the counts on both sides of the selection."""
        return cls(*(TokenCount(getattr(before, kind), getattr(after, kind)) for kind in TOKEN_KINDS))

    @classmethod
    def total(cls, each: Iterable[Tokens]) -> Tokens:
        """The sum over several prompts."""
        parts = list(each)
        return cls.of(*(sum((getattr(one, side) for one in parts), TokenCounts()) for side in ("before", "after")))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "kept_ratio": self.kept_ratio}


@dataclass(frozen=True)
class StageTimes:
    """Seconds by stage; None for a stage that did not run.

    `load` the model; `decode` the file; `prepare` patches, log-mel and prompt; `encode`; `select`: embed and choose;
    `prefill`: the first token; `generate`: the others; `evidence`: the moments that the answer rests on.
    """

    load: float | None = None
    decode: float | None = None
    prepare: float | None = None
    encode: float | None = None
    select: float | None = None
    prefill: float | None = None
    generate: float | None = None
    evidence: float | None = None

    @property
    def first_token(self) -> float:
        """Seconds from opening the file to the first token, without `load`."""
        return sum(getattr(self, name) or 0.0 for name in BEFORE)

    @property
    def total(self) -> float:
        """Seconds from opening the file to the last token, without `load` and `evidence`."""
        return self.first_token + (self.generate or 0.0)

    @property
    def llm(self) -> float:
        """Seconds that depend on the number of tokens: select, prefill and generate."""
        return sum(getattr(self, name) or 0.0 for name in ("select", "prefill", "generate"))

    def __add__(self, other: StageTimes) -> StageTimes:
        return StageTimes(**{name: _sum(getattr(self, name), getattr(other, name)) for name in STAGES})

    def __sub__(self, other: StageTimes) -> StageTimes:
        """The seconds beside those of `other`, a part of them."""
        return StageTimes(**{name: seconds - (getattr(other, name) or 0.0) for name, seconds in self.known().items()})

    def __truediv__(self, parts: int) -> StageTimes:
        """An equal share of a batch's seconds."""
        return StageTimes(**{name: seconds / parts for name, seconds in self.known().items()})

    def known(self) -> dict[str, float]:
        """The stages that ran, in order."""
        every = ((name, getattr(self, name)) for name in STAGES)
        return {name: seconds for name, seconds in every if seconds is not None}

    def as_dict(self) -> dict[str, float | None]:
        """Plain values, for JSON; all None where nothing ran."""
        ran = bool(self.known())
        return {**asdict(self), "first_token": self.first_token if ran else None, "total": self.total if ran else None}


STAGES = tuple(field.name for field in fields(StageTimes))
BEFORE = STAGES[1 : STAGES.index("generate")]  # from opening the file to the first token


@dataclass(frozen=True)
class MemoryUse:
    """Bytes. `weights`: all parameters as stored. `peak`: from preparing the clip on; None where it is unknown.

    On CUDA `peak` is the device's peak allocation, on a CPU the process's peak resident size. `peak_llm` is the same
    from selecting tokens on.
    """

    weights: int
    peak: int | None
    peak_llm: int | None = None

    def as_dict(self) -> dict[str, int | None]:
        """Plain values, for JSON."""
        return {"weights": self.weights, "peak": self.peak}


@dataclass(frozen=True)
class Flops:
    """Floating-point operations from the model's shapes, encoders included: with all tokens, and as run."""

    full: float
    reduced: float


@dataclass(frozen=True)
class Speedup:
    """Ratios of the full run to the reduced one: `estimated` from operations, `measured` from seconds.

    `measured` is None unless the full run was made.
    """

    estimated: float
    measured: float | None = None


@dataclass(frozen=True)
class Report:
    """The cost of one answer.

    `time_s`: of a batch, an equal share of its seconds. `question_s`: of it, without the clip's and earlier answers'
    part. `encoded`: tokens that the encoders computed to the end; the others of `tokens` reuse the features of one of
    these, or the vision encoder dropped them. `tokens_per_s`: decoding throughput after the first token, of the
    whole batch; None for answers of one token. `first_layer`, `last_layer`: tokens that these decoder layers read.
    """

    tokens: Tokens
    time_s: StageTimes
    memory_bytes: MemoryUse
    flops: Flops
    encoded: TokenCounts
    speedup: Speedup
    tokens_per_s: float | None = None
    first_layer: TokenCounts = TokenCounts()
    last_layer: TokenCounts = TokenCounts()
    question_s: StageTimes = StageTimes()

    def measured(self, full: Report) -> Report:
        """The same with its speedup measured against the report of the full run."""
        return replace(self, speedup=replace(self.speedup, measured=full.time_s.total / self.time_s.total))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "tokens": self.tokens.as_dict(),
            "time_s": self.time_s.as_dict(),
            "question_s": self.question_s.as_dict(),
            "memory_bytes": self.memory_bytes.as_dict(),
            "flops": asdict(self.flops),
            "speedup": asdict(self.speedup),
            "encoded": {kind: getattr(self.encoded, kind) for kind in TOKEN_KINDS if kind != "text"},
            "tokens_per_s": self.tokens_per_s,
            "first_layer": asdict(self.first_layer),
            "last_layer": asdict(self.last_layer),
        }


class Stopwatch:
    """Adds up the host's seconds by stage, and counts how often each was timed.

    It does not wait for the device: a stage whose numbers the host does not read itself ends with `wait`. Device work
    that runs while the host decodes the next frames is timed once, where the host waits for it.
    """

    def __init__(self, device: torch.device, start: StageTimes | None = None) -> None:
        self.device = device
        self.seconds: dict[str, float] = {} if start is None else start.known()
        self.counts: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as part of stage `name`."""
        began = self.now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - began
            self.counts[name] += 1

    def now(self) -> float:
        """Seconds of the clock that stages are timed with."""
        return time.perf_counter()

    def wait(self) -> None:
        """Wait until the device has finished all its work; called inside the stage that the work belongs to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def times(self) -> StageTimes:
        """The seconds so far."""
        return StageTimes(**self.seconds)


def decoding_rate(tokens: int, rows: int, seconds: float | None) -> float | None:
    """Decoding throughput in tokens/s after the first token of each row; None where no row has a second one."""
    return (tokens - rows) / seconds if tokens > rows and seconds else None


def _sum(a: float | None, b: float | None) -> float | None:
    return a + b if a is not None and b is not None else b if a is None else a


def reset_peak(device: torch.device) -> bool:
    """Start a new memory peak; False where the system cannot: CUDA and Linux can."""
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
