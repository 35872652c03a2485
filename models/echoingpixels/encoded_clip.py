"""A clip that the towers have seen and heard, to be asked about any number of times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from .backbones.base import Features
from .features.coarse_to_fine import Glance, chosen, look_closer
from .generation.answer import Answer, Chunk, Spent, folded
from .inputs.prepare import Inputs, Media
from .inputs.stream import Selection, Stream
from .media.clip import Ending
from .memory_errors import guarded_stream
from .options import AUTO, AskOptions, reducer_of
from .report import Stopwatch, reset_peak

if TYPE_CHECKING:
    from .model import EchoingPixels

OnChoice = Callable[[Stream, Selection], None]


@dataclass(frozen=True)
class EncodedClip:
    """A clip the towers have seen and heard."""

    model: EchoingPixels
    media: Media
    features: Features
    watch: Stopwatch
    peak_bytes: int | None  # while looking
    ending: Ending
    glance: Glance | None = None  # where `features` are of a first look

    @torch.no_grad()
    def seen_for(self, prompt: Inputs, watch: Stopwatch) -> Features:
        """What a question is answered from: after a first look, with a second one where the model's own scores say."""
        if self.glance is None:
            return self.features
        with watch.stage("encode"):
            on, share = self.model.backbone, self.model.backbone.how.amount
            stream = self.model.embed(prompt, (self.features,))
            scores = self.model.select(stream).scores
            assert scores is not None and share is not None, "cs2 and relevance rate tokens"
            cells = chosen(self.glance.whole, on.window, scores[stream.pictures], share)
            return look_closer(on, self.glance, self.features, cells)

    def _spent(self, seen: Features, reducer: str, pool: int, text: int) -> Spent:
        model, on = self.model, self.model.backbone
        choice, span = model.choice_flops(reducer, pool, text), self.media.span
        small = on.resolution.warnings(span)
        if self.glance is None:
            return Spent(on.tower_flops(self.media, seen), choice, self.peak_bytes, seen.anew(span.image), small)
        first = model.choice_flops(reducer_of(AUTO, model.sieve is not None), self.glance.coarse.span.tokens, text)
        return Spent(self.glance.flops(on, seen), first + choice, self.peak_bytes, self.glance.anew(seen), small)

    def stream(self, question: str, options: AskOptions, on_choice: OnChoice | None = None) -> Iterator[Chunk]:
        """Answer one question piece by piece; `on_choice` gets the whole stream and what was chosen of it, untimed.

        OutOfMemoryError where memory runs out.
        """
        advise = partial(self.model.advise, self.media, question, options)
        return guarded_stream(self._stream(question, options, on_choice), "answering", self.watch.device, advise)

    def _stream(self, question: str, options: AskOptions, on_choice: OnChoice | None) -> Iterator[Chunk]:
        model, watch = self.model, Stopwatch(self.watch.device, dict(self.watch.seconds))
        options = options.settled(model.sieve is not None)
        reset_peak(self.watch.device)
        with watch.stage("prepare"):
            inputs = model.prepare(self.media, question)
        seen = self.seen_for(inputs, watch)
        with watch.stage("select"):
            stream = model.embed(inputs, (seen,))
            selection = model.select(stream, options.reducer, options.keep)
            kept = stream.take(selection)
        if on_choice is not None:
            on_choice(stream, selection)
        pool = int(stream.pool.sum())
        spent = self._spent(seen, options.reducer, pool, stream.kind.numel() - pool)
        del stream, selection, seen
        yield from model.chunks(kept, options.generate, watch, spent)

    def answer(self, question: str, options: AskOptions, on_choice: OnChoice | None = None) -> Answer:
        """Answer one question; `on_choice` as in `stream`."""
        return folded(self.stream(question, options, on_choice))

    def compare(self, question: str, options: AskOptions) -> tuple[Answer, Answer]:
        """The reduced answer with its speedup measured, and the answer from all tokens.

        The reduced run is made twice and the warm one counts.
        """
        self.answer(question, options)
        reduced = self.answer(question, options)
        full = self.answer(question, replace(options, reducer="full", keep=1.0))
        times = [answer.report.time_s["total"] or 0.0 for answer in (full, reduced)]
        speedup = {**reduced.report.speedup, "measured": times[0] / times[1]}
        return replace(reduced, report=replace(reduced.report, speedup=speedup)), full
