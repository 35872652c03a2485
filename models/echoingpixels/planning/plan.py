"""What an answer will cost, before anything is loaded or run. Knows nothing about weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..backbones.flops import llm_flops
from ..inputs.prepare import Extent, extent_of, media_of, span_of
from ..inputs.stream import Stream, budget
from ..media.clip import PIECE, Clip
from ..options import KEEP, SIEVED, AskOptions, Auto, Keep
from ..reducers.adaptive import LEAST, MOST
from ..report import Flops, MemoryUse, Report, Speedup, StageTimes, Tokens
from .advice import advice
from .device_memory import free_memory
from .estimate import Memory
from .forecast import Case, memory_of
from .meta_model import Outline


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


def plan(outline: Outline, clip: Clip | Extent, question: str, options: AskOptions) -> Plan:
    """Predict the report of asking `question` about a clip, of which its extent is enough.

    ModelError for cs2 where there is no sieve.
    """
    model, options = outline.model, options.resolved(outline.own_sieve)
    model.check(options.reducer, options.keep if outline.own_sieve else KEEP)
    extent = extent_of(clip.pieces()) if isinstance(clip, Clip) else clip
    media = media_of(span_of(extent, model.backbone.resolution), extent)
    case = Case(outline, media, question, options, _bytes(extent))
    stream, before, after = case.stream, case.before, case.kept
    encoders, shape = model.backbone.encoder_flops(case.media), model.backbone.shape
    choice = model.selection_flops(options.reducer, media.span.tokens, before.total - media.span.tokens)
    flops = Flops(encoders + llm_flops(shape, before.total, 1), encoders + choice + llm_flops(shape, after.total, 1))
    free = free_memory(outline.device)
    memory = memory_of(case, free)
    report = Report(
        tokens=Tokens.of(before, after),
        time_s=StageTimes(),
        memory_bytes=MemoryUse(memory.weights, memory.peak),
        flops=flops,
        encoded=replace(before, text=0),
        speedup=Speedup(flops.full / flops.reduced),
    )
    said = () if free is None or memory.peak <= free else advice(case, _fps(extent), _size(extent), free)
    beyond = (*model.backbone.resolution.warnings(media.span), *model.overreach(int(stream.next_position.max())))
    warnings = (*_range(stream, options.keep), *beyond, *_warnings(outline, options))
    return Plan(report, memory, options, outline.device.type, said, warnings)


def _range(stream: Stream, keep: Keep) -> tuple[str, ...]:
    """What cannot be known of auto before a run."""
    if not isinstance(keep, Auto):
        return ()
    least, most = (int(budget(stream.pool, ratio)) for ratio in (LEAST, MOST))
    return (f"{keep} keeps {least} to {most} audio and video tokens, as the scores say: planned with {most}.",)


def _bytes(extent: Extent) -> int:
    """What is in memory of a clip: all of it, or of a long one a piece, what waits for the towers, and both as one."""
    height, width = extent.size
    return min(len(extent.times) * height * width * 3 + extent.samples * 4, 3 * PIECE)


def _fps(extent: Extent) -> float:
    """Frames a second as they were read; 0 for fewer than two."""
    times = extent.times
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def _size(extent: Extent) -> tuple[int, int]:
    """The (height, width) of the picture in the file."""
    video = extent.ending.source.video
    return video.size if video else extent.size


def _warnings(outline: Outline, options: AskOptions) -> tuple[str, ...]:
    sieve = outline.model.sieve
    if options.reducer not in SIEVED or outline.own_sieve or sieve is None:
        return ()
    name, layers = outline.model.backbone.name, sieve.options.layers
    return (f"{name} has no sieve weights of its own: planned with {layers} layers; a run needs --sieve PATH.",)
