"""What an answer will cost, before anything is loaded or run. Knows nothing about weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .auto import LEAST, MOST
from .clip import Clip
from .fitting import advice
from .forecast import Case, memory_of
from .frames import MERGE
from .headroom import free_memory
from .inputs import Media, mel_frames, span_of
from .memory import Memory
from .model import EchoingPixels
from .options import KEEP, SIEVED, AskOptions, Auto, Keep
from .outline import Outline
from .stats import STAGES, Report, Tokens, llm_flops
from .stream import Stream, budget


@dataclass(frozen=True)
class Plan:
    """A predicted report, for a device, with the options it was made for, and what it takes for granted.

    Times are None. FLOPs go up to the first token, memory to the longest answer. The number of tokens is the one said,
    but where picture and sound compete for it, who gets how many is only seen in a run: here, evenly. Without a
    tokenizer at hand, text tokens are estimated. `advice`: what would make it fit, where it does not.
    """

    report: Report
    memory: Memory
    options: AskOptions
    device: str
    advice: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def plan(outline: Outline, clip: Clip, question: str, options: AskOptions) -> Plan:
    """Predict the report of asking `question` about `clip`. ModelError for cs2 where there is no sieve."""
    model, options = outline.model, options.settled(outline.own_sieve)
    model.check(options.reducer, options.keep if outline.own_sieve else KEEP)
    case = Case(outline, _media(model, clip), question, options, _bytes(clip))
    before, after = case.stream, case.kept
    tower, shape, whole = model.backbone.tower_flops(case.media), model.backbone.shape, before.kind.numel()
    full = tower + llm_flops(shape, whole, 1)
    reduced = tower + model.choice_flops(options.reducer, whole) + llm_flops(shape, sum(after.values()), 1)
    free = free_memory(outline.device)
    memory = memory_of(case, free)
    report = Report(
        tokens=Tokens.of(before.counts(), after),
        time_s=dict.fromkeys(STAGES),
        memory_bytes={"weights": memory.weights, "peak": memory.peak},
        flops={"full": full, "reduced": reduced},
        speedup={"estimated": full / reduced, "measured": None},
    )
    said = () if free is None or memory.peak <= free else advice(case, _fps(clip), _size(clip), free)
    warnings = (*_range(before, options.keep), *_warnings(outline, options))
    return Plan(report, memory, options, outline.device.type, said, warnings)


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


def _bytes(clip: Clip) -> int:
    return clip.frames.nbytes + (0 if clip.audio is None else clip.audio.nbytes)


def _fps(clip: Clip) -> float:
    """Frames a second as they were read; 0 for fewer than two."""
    return float((len(clip.times) - 1) / (clip.times[-1] - clip.times[0])) if len(clip.times) > 1 else 0.0


def _size(clip: Clip) -> tuple[int, int]:
    """The (height, width) of the picture in the file."""
    return clip.source.video.size if clip.source.video else clip.frames.shape[1:3]


def _warnings(outline: Outline, options: AskOptions) -> tuple[str, ...]:
    sieve = outline.model.sieve
    if options.reducer not in SIEVED or outline.own_sieve or sieve is None:
        return ()
    name, layers = outline.model.backbone.name, sieve.options.layers
    return (f"{name} has no sieve weights of its own: planned with {layers} layers; a run needs --sieve PATH.",)
