"""What an answer will cost, before anything is loaded or run. Knows nothing about weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .auto import LEAST, MOST
from .clip import Clip
from .frames import MERGE
from .inputs import Inputs, Media, mel_frames, prepare_prompt, span_of
from .model import EchoingPixels
from .options import KEEP, SIEVED, AskOptions, Auto, Keep
from .outline import Outline, weight_bytes
from .reducers import REDUCERS
from .shares import SHARES
from .stats import STAGES, Report, Tokens, llm_flops
from .stream import Selection, Stream, budget

RATED = ("cs2", "repeats", "fastv", "relevance")  # share one budget by what they find


@dataclass(frozen=True)
class Plan:
    """A predicted report, for a device, with the options it was made for, and what it takes for granted.

    Times and peak memory are None. FLOPs go up to the first token. The number of tokens is the one said, but where
    picture and sound compete for it, who gets how many is only seen in a run: here, evenly. Without a tokenizer at
    hand, text tokens are estimated.
    """

    report: Report
    options: AskOptions
    device: str
    warnings: tuple[str, ...] = ()


def plan(outline: Outline, clip: Clip, question: str, options: AskOptions) -> Plan:
    """Predict the report of asking `question` about `clip`. ModelError for cs2 where there is no sieve."""
    model, options = outline.model, options.settled(outline.own_sieve)
    model.check(options.reducer, options.keep if outline.own_sieve else KEEP)
    media = _media(model, clip)
    prompt = prepare_prompt(media, question, model.backbone.tokenizer, model.backbone.layout)
    before = _stream(prompt)
    after = before.take(_foreseen(before, options)).counts()
    tower, shape, whole = model.backbone.tower_flops(media), model.backbone.shape, prompt.kind.numel()
    full = tower + llm_flops(shape, whole, 1)
    reduced = tower + model.choice_flops(options.reducer, whole) + llm_flops(shape, sum(after.values()), 1)
    report = Report(
        tokens=Tokens.of(before.counts(), after),
        time_s=dict.fromkeys(STAGES),
        memory_bytes={"weights": weight_bytes(model), "peak": None},
        flops={"full": full, "reduced": reduced},
        speedup={"estimated": full / reduced, "measured": None},
    )
    return Plan(report, options, outline.device.type, (*_range(before, options.keep), *_warnings(outline, options)))


def _foreseen(stream: Stream, options: AskOptions) -> Selection:
    """As many tokens of each kind as will be kept, or an even choice where that depends on what is in the clip."""
    keep = MOST if isinstance(options.keep, Auto) else options.keep
    if options.reducer in RATED:
        return REDUCERS["uniform"](stream, keep)
    if options.reducer in SHARES:
        return Selection(SHARES[options.reducer](stream, torch.zeros(stream.kind.shape), keep))
    return REDUCERS[options.reducer](stream, keep)


def _range(stream: Stream, keep: Keep) -> tuple[str, ...]:
    """What cannot be known of auto before a run."""
    if not isinstance(keep, Auto):
        return ()
    least, most = (int(budget(stream.pool, ratio)) for ratio in (LEAST, MOST))
    return (f"{keep} keeps {least} to {most} audio and video tokens, as the scores say: planned with {most}.",)


def _media(model: EchoingPixels, clip: Clip) -> Media:
    """The clip's outline: as `prepare_media` makes it, with nothing in it."""
    span = span_of(clip, model.backbone.min_pixels, model.backbone.max_pixels)
    grid = (len(span.times), MERGE * span.rows, MERGE * span.columns) if span.times else None
    mel = torch.empty(0, mel_frames(len(clip.audio))) if clip.audio is not None and span.audio_tokens else None
    return Media(span, None, grid, mel)


def _stream(prompt: Inputs) -> Stream:
    """The prompt's stream with embeddings of width 0."""
    return Stream(
        embeds=torch.empty(*prompt.kind.shape, 0),
        positions=prompt.positions,
        kind=prompt.kind,
        time=prompt.time,
        cell=prompt.cell,
        mask=torch.ones_like(prompt.kind, dtype=torch.bool),
        next_position=prompt.positions.amax(dim=(0, 2)) + 1,
    )


def _warnings(outline: Outline, options: AskOptions) -> tuple[str, ...]:
    sieve = outline.model.sieve
    if options.reducer not in SIEVED or outline.own_sieve or sieve is None:
        return ()
    name, layers = outline.model.backbone.name, sieve.options.layers
    return (f"{name} has no sieve weights of its own: planned with {layers} layers; a run needs --sieve PATH.",)
