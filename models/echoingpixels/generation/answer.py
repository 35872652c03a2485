"""Answers from a token stream of any number of rows: the text as it is generated, and the cost of each row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..backbones.base import Backbone
from ..backbones.sizes import llm_flops
from ..inputs.descent import counts_by_layer
from ..inputs.token_stream import KeptTimes, TokenStream
from ..options import AskOptions
from ..report import (
    Flops,
    MemoryUse,
    Report,
    Speedup,
    StageTimes,
    Stopwatch,
    TokenCounts,
    Tokens,
    decoding_rate,
    peak_memory,
)
from .decode import FinishReason, Prefilled, Text, stream_tokens
from .evidence import OFF, Evidence, Timing, evidence


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    `options`: as applied, with the reducer's real name in place of auto. `kept_times`: s from the clip's start of each
    token that the decoder's last layer reads. `evidence`: the moments that it rests on. `warnings`: reasons not to
    trust the answer. `notes`: facts about the clip and the model.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    report: Report
    options: AskOptions
    kept_times: KeptTimes
    evidence: Evidence = field(default_factory=Evidence)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of text of one row of the batch; the last chunk of a row has no text and carries the answer."""

    text: str
    answer: Answer | None = None
    row: int = 0


@dataclass(frozen=True)
class Cost:
    """The cost of one row before its first token: the clip's part of the report.

    `time_s`: the clip's seconds, which every question about it reports, and those that an earlier answer spent on the
    part of the prompt that this one reuses. `peak_bytes`: peak memory while it was encoded.
    """

    time_s: StageTimes = field(default_factory=StageTimes)
    encoder_flops: float = 0.0
    selection_flops: float = 0.0
    peak_bytes: int | None = None
    encoded: TokenCounts | None = None  # None: all tokens
    timing: Timing | None = field(default_factory=Timing)  # None: of several clips
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def generate(
    backbone: Backbone,
    stream: TokenStream,
    options: AskOptions,
    watch: Stopwatch,
    costs: Sequence[Cost],
    weights: int,
    on_prefill: Callable[[Prefilled], object] | None = None,
) -> Generator[Chunk, Collection[int] | None, None]:
    """Decode every row of a stream (B, L); text as it is generated, then each row's answer in order.

    `watch` has the seconds of the batch so far; each row reports an equal share. `weights`: the model's bytes.
    `on_prefill` is called after the first token. Rows that are sent to the generator end with the text that they have.
    """
    texts = [Text(backbone, options.generate.stop) for _ in costs]
    started: list[Prefilled] = []
    done = torch.zeros(len(texts), dtype=torch.bool)
    for tokens in stream_tokens(backbone, stream, options.generate, watch, started.append, done):
        for row, token in enumerate(tokens.tolist()):
            piece = texts[row].push(token) if token >= 0 else ""
            if texts[row].reason == "stop":
                done[row] = True
            if piece:
                left = yield Chunk(piece, row=row)
                done[list(left or ())] = True
        if on_prefill is not None:
            on_prefill(started[0])
            on_prefill = None
    yield from (Chunk(piece, row=row) for row, text in enumerate(texts) if (piece := text.rest()))
    generated = sum(len(text.ids) for text in texts)
    rate = decoding_rate(generated, len(texts), watch.seconds.get("generate"))
    peak = peak_memory(backbone.device)
    found = [Evidence(reason=OFF)] * len(texts)
    if options.evidence:
        with watch.stage("evidence"):
            found = evidence(backbone, stream, started[0].cache, [t.ids for t in texts], [c.timing for c in costs])
    by_layer, last = _read(stream, started[0].read, backbone.shape.layers)
    backbone.fixed_caches.give_back(started[0].cache)
    started.clear()  # the KV cache is large
    share = watch.times() / len(texts)
    before, times = stream.before or [layers[0] for layers in by_layer], last.kept_times()
    for row, (text, cost) in enumerate(zip(texts, costs, strict=True)):
        report = Report(
            tokens=Tokens.of(before[row], TokenCounts.mean(by_layer[row])),
            time_s=cost.time_s + share,
            memory_bytes=MemoryUse(weights, max(filter(None, (cost.peak_bytes, peak)), default=None), peak),
            flops=(flops := _flops(backbone, cost, before[row], by_layer[row], len(text.ids))),
            speedup=Speedup(flops.full / flops.reduced),
            encoded=cost.encoded or replace(before[row], text=0),
            tokens_per_s=rate,
            first_layer=by_layer[row][0],
            last_layer=by_layer[row][-1],
            question_s=share,
        )
        given = text.text, tuple(text.ids), text.reason, report, options, times[row], found[row]
        yield Chunk("", Answer(*given, cost.warnings, cost.notes), row)


def _read(
    stream: TokenStream, read: Tensor | None, layers: int
) -> tuple[Sequence[tuple[TokenCounts, ...]], TokenStream]:
    """Tokens that each layer reads, row by row, and the stream of the last layer, for `read` of `Prefilled`."""
    if read is None:
        return [(counts,) * layers for counts in stream.row_counts()], stream
    return counts_by_layer(stream, read, layers), replace(stream, mask=read == layers, sizes=None)


def _flops(
    backbone: Backbone, cost: Cost, before: TokenCounts, by_layer: Sequence[TokenCounts], generated: int
) -> Flops:
    """With all tokens of the prompt, and with those of each layer and the selection."""
    full = llm_flops(backbone.shape, before.total, generated)
    reduced = llm_flops(backbone.shape, [counts.total for counts in by_layer], generated)
    return Flops(cost.encoder_flops + full, cost.encoder_flops + cost.selection_flops + reduced)


def joined(chunks: Iterator[Chunk]) -> list[Answer]:
    """The answers that chunks carry, in the order of their rows."""
    return [chunk.answer for chunk in chunks if chunk.answer is not None]
