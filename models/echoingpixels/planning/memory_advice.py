"""The planner's advice for a model or a clip that did not fit into memory."""

from __future__ import annotations

from contextlib import suppress

from ..errors import EpError
from ..inputs.patches import FACTOR, STEP
from ..inputs.prepare import Media
from ..options import QUANTS, AskOptions, LoadOptions, Quant
from .advice import advice
from .auto_model import LARGEST_FIRST
from .catalog import QUESTION, clip_like, fitting
from .device_memory import free_memory
from .forecast import Case
from .meta_model import outline
from .plan import plan


def for_answer(
    name: str, load: LoadOptions, media: Media | None, question: str, options: AskOptions
) -> tuple[str, ...]:
    """Options that would let a model answer about a clip, one line each; () where none does or that is unknown.

    `load`: with a concrete quantization. `media`: None for a clip that was not encoded: a 60 s clip stands in for it.
    """
    with suppress(EpError):
        drawn = outline(name, load)
        free = free_memory(drawn.device)
        if free is None:
            return ()
        options = options.resolved(drawn.own_sieve)
        if media is None:
            return plan(drawn, clip_like(drawn.model), QUESTION, options).advice
        case, span = Case(drawn, media, question, options), media.span
        times = span.times
        fps = STEP * (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        return advice(case, fps, (span.rows * FACTOR, span.columns * FACTOR), free)
    return ()


def for_load(name: str, load: LoadOptions) -> tuple[str, ...]:
    """Models and quantizations that fit where `name` did not, the nearest first, one line each."""
    with suppress(EpError):
        candidates: list[tuple[str, Quant]] = [(name, "int8"), (name, "nf4")]
        after = LARGEST_FIRST.index(name) + 1 if name in LARGEST_FIRST else 0
        candidates += [(other, quant) for other in LARGEST_FIRST[after:] for quant in QUANTS]
        return tuple(
            f"--model {model} --quant {need.quant}: {need.peak / 1e9:.1f} GB for a 60 s clip."
            for model, need in fitting(candidates, load)
            if (model, need.quant) != (name, load.quant)
        )
    return ()
