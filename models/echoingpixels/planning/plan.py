"""The cost of an answer before anything is loaded or run: the report that a run would have, its memory, and advice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..backbones.sizes import llm_flops
from ..inputs.prepare import Extent, extent_of, media_of, span_of
from ..media.clip import PIECE, Clip
from ..options import AskOptions
from ..reducer_names import SIEVED
from ..report import Flops, MemoryUse, Report, Speedup, StageTimes, TokenCounts, Tokens
from .advice import advice
from .estimate import Case, Memory, memory_of
from .meta_model import Outline


@dataclass(frozen=True)
class Plan:
    """A predicted report, for a device and options, its memory, its assumptions (`warnings`), and `advice` if it does
    not fit.

    Times are None. FLOPs go up to the first token, memory to the longest answer. If audio and video compete for the
    kept tokens, their shares are known after a run only: here, even. Without a tokenizer, text tokens are estimated.
    """

    report: Report
    memory: Memory
    options: AskOptions
    device: str
    advice: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def plan(outline: Outline, clip: Clip | Extent, question: str, options: AskOptions) -> Plan:
    """Predict the report of a question about a clip, or about a clip's extent.

    ModelError for cs2 without a sieve.
    """
    model, options = outline.model, options.resolved(outline.own_sieve)
    model.check(options.reducer)
    extent = extent_of(clip.pieces()) if isinstance(clip, Clip) else clip
    media = media_of(span_of(extent, model.backbone.resolution), extent)
    case = Case(outline, media, question, options, _bytes(extent))
    before, by_layer, memory = case.before, case.by_layer, memory_of(case)
    encoders, shape = model.backbone.encoder_flops(media), model.backbone.shape
    choice = model.selection_flops(options.reducer, before.pool, before.text)
    reduced = llm_flops(shape, [counts.total for counts in by_layer], 1)
    flops = Flops(encoders + llm_flops(shape, before.total, 1), encoders + choice + reduced)
    report = Report(
        tokens=Tokens.of(before, TokenCounts.mean(by_layer)),
        time_s=StageTimes(),
        memory_bytes=MemoryUse(memory.weights, memory.peak),
        flops=flops,
        encoded=replace(before, text=0),
        speedup=Speedup(flops.full / flops.reduced),
        first_layer=by_layer[0],
        last_layer=by_layer[-1],
    )
    changes = advice(case, _fps(extent), _size(extent), memory.free) if memory.fits is False else ()
    beyond = (*model.backbone.resolution.warnings(media.span), *model.overreach(int(case.stream.next_position.max())))
    warnings = (*beyond, *_sieve(outline, options))
    return Plan(report, memory, options, outline.device.type, changes, warnings)


def _bytes(extent: Extent) -> int:
    """Bytes of a clip in memory: all, or of a long one a piece, the frames that wait for an encoder, and their copy."""
    height, width = extent.size
    whole = len(extent.times) * height * width * 3 + extent.samples * 4
    return min(whole, 7 * PIECE)  # a chunk of the vision encoder has about two pieces


def _fps(extent: Extent) -> float:
    """Frames read per second; 0 for fewer than two."""
    times = extent.times
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def _size(extent: Extent) -> tuple[int, int]:
    """The (height, width) of the file's frames."""
    video = extent.ending.source.video
    return video.size if video else extent.size


def _sieve(outline: Outline, options: AskOptions) -> tuple[str, ...]:
    """The sieve that a plan assumes for a model without one."""
    sieve = outline.model.sieve
    if options.reducer not in SIEVED or outline.own_sieve or sieve is None:
        return ()
    name, layers = outline.model.backbone.name, sieve.options.layers
    return (f"{name} has no sieve weights of its own: planned with {layers} layers; a run needs --sieve PATH.",)
