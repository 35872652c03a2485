"""The figures of a server, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..generation.answer import Answer
from ..report import TOKEN_KINDS, StageTimes

SIZES = (1, 2, 4, 8, 16, 32)
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("ep_requests", "Questions by outcome.", ["outcome"], registry=own)
        self.waiting = Gauge("ep_queue_length", "Questions that wait for an answer.", registry=own)
        self.running = Gauge("ep_running", "Questions that are being answered.", registry=own)
        self.batch = Histogram("ep_batch_size", "Questions of a batch.", buckets=SIZES, registry=own)
        self.seconds = Counter("ep_stage_seconds", "Seconds by stage.", ["stage"], registry=own)
        self.first = Histogram("ep_first_token_seconds", "To the first text.", buckets=SECONDS, registry=own)
        self.tokens = Counter("ep_tokens", "Prompt tokens by modality.", ["modality", "side"], registry=own)
        self.generated = Counter("ep_generated_tokens", "Generated tokens.", registry=own)
        self.clips = Counter("ep_clips", "Clips by where their features come from.", ["source"], registry=own)
        self.memory = Gauge("ep_clip_bytes", "Bytes of encoded clips in memory.", registry=own)
        for outcome in ("answered", "viewed", "refused", "failed", "cancelled"):
            self.requests.labels(outcome)
        for source in ("memory", "disk", "encoded"):
            self.clips.labels(source)

    def spent(self, times: StageTimes) -> None:
        """Count seconds by stage."""
        for stage, seconds in times.known().items():
            self.seconds.labels(stage).inc(seconds)

    def answered(self, answer: Answer) -> None:
        """Count the tokens and seconds of an answer."""
        self.spent(answer.report.question_s)
        self.generated.inc(len(answer.token_ids))
        for kind in TOKEN_KINDS:
            count = getattr(answer.report.tokens, kind)
            self.tokens.labels(kind, "before").inc(count.before)
            self.tokens.labels(kind, "after").inc(count.after)

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self.registry)
