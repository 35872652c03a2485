"""Changes that make an answer or a model fit into memory: one option at a time, each with its mildest value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from ..errors import EpError
from ..inputs.patches import FACTOR, MERGE, STEP, TOKEN, Resolution
from ..inputs.prepare import Media
from ..model import EchoingPixels
from ..options import MIN_PIXELS, AskOptions, LoadOptions, Quant
from ..options import QUANTS as ALL_QUANTS
from .estimate import Case, free_memory, memory_of
from .meta_model import outline

KEEPS = (0.5, 0.2, 0.1, 0.05, 0.02)
QUANTS: dict[str, tuple[Quant, ...]] = {"none": ("int8", "nf4"), "int8": ("nf4",), "nf4": ()}
FEWER = (2, 4, 8, 16)  # divisors of the frame rate, or of the pixels
GB = 1e9

Ladder = Callable[[Case], Iterator[tuple[str, Case]]]


@dataclass(frozen=True)
class Change:
    """Options of the command line, and the peak in bytes with them."""

    options: str
    peak: int

    def line(self, free: int) -> str:
        """The options, their peak, and its distance from the free memory."""
        off = free - self.peak
        margin = f"{abs(off) / GB:.2f} GB {'to spare' if off >= 0 else 'too much'}"
        return f"{self.options}: {self.peak / GB:.2f} GB, {margin}."


def advice(case: Case, fps: float, size: tuple[int, int], free: int | None) -> tuple[str, ...]:
    """A line for each option that alone makes it fit; if none does, one line with all of them at their lowest.

    `fps` is the clip's as read, `size` the (height, width) of its frames. () if the free memory is unknown.
    """
    if free is None:
        return ()
    ladders: list[Ladder] = [_quants, _keeps, partial(_fps, fps=fps, size=size), partial(_pixels, size=size)]
    alone = []
    for ladder in ladders:
        changes = (Change(option, memory_of(other).peak) for option, other in ladder(case))
        alone += [change.line(free) for change in islice((c for c in changes if c.peak <= free), 1)]
    if alone:
        return tuple(alone)
    options, smallest = [], case
    for ladder in ladders:
        for option, other in list(ladder(smallest))[-1:]:
            options.append(option)
            smallest = other
    return (Change(" ".join(options), memory_of(smallest).peak).line(free),) if options else ()


def for_answer(
    name: str, load: LoadOptions, media: Media | None, question: str, options: AskOptions
) -> tuple[str, ...]:
    """Options with which a model could answer about a clip, one line each; () if none helps or that is unknown.

    `load`: with a concrete quantization. `media`: None for a clip that was not encoded: a 60 s clip replaces it.
    """
    from .catalog import plan_like

    with suppress(EpError):
        meta = outline(name, load)
        options = options.resolved(meta.own_sieve)
        if media is None:
            return plan_like(meta, options).advice
        times, span = media.span.times, media.span
        fps = STEP * (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        size = (span.rows * FACTOR, span.columns * FACTOR)
        return advice(Case(meta, media, question, options), fps, size, free_memory(meta.device))
    return ()


def for_load(name: str, load: LoadOptions) -> tuple[str, ...]:
    """Models and quantizations that fit where `name` did not, the nearest first, one line each."""
    from ..checkpoints.loading import LARGEST_FIRST
    from .catalog import fitting

    with suppress(EpError):
        candidates: list[tuple[str, Quant]] = [(name, "int8"), (name, "nf4")]
        after = LARGEST_FIRST.index(name) + 1 if name in LARGEST_FIRST else 0
        candidates += [(other, quant) for other in LARGEST_FIRST[after:] for quant in ALL_QUANTS]
        return tuple(
            f"--model {model} --quant {need.quant}: {need.peak / GB:.1f} GB for a 60 s clip."
            for model, need in fitting(candidates, load)
            if (model, need.quant) != (name, load.quant)
        )
    return ()


def _quants(case: Case) -> Iterator[tuple[str, Case]]:
    model = case.outline.model
    for quant in QUANTS[model.quant]:
        smaller = EchoingPixels(model.backbone, model.sieve, quant)
        yield f"--quant {quant}", replace(case, outline=replace(case.outline, model=smaller))


def _keeps(case: Case) -> Iterator[tuple[str, Case]]:
    now, full = case.options.keep, case.options.reducer == "full"
    reducer = "uniform" if full else case.options.reducer
    for keep in KEEPS:
        if full or keep < now:
            name = f"--keep {keep:g} --reducer {reducer}" if full else f"--keep {keep:g}"
            yield name, replace(case, options=replace(case.options, keep=keep, reducer=reducer))


def _fps(case: Case, fps: float, size: tuple[int, int]) -> Iterator[tuple[str, Case]]:
    """Fewer frames; one step more than the quotient, as the end of a clip decides about the last one."""
    span, resolution = case.media.span, case.outline.model.backbone.resolution
    for fewer in FEWER:
        steps = -(-len(span.times) // fewer) + 1
        if case.media.grid is None or steps >= len(span.times) or not fps:
            return
        yield f"--fps {fps / fewer:.3g}", _resized(case, steps, size, resolution)


def _pixels(case: Case, size: tuple[int, int]) -> Iterator[tuple[str, Case]]:
    span, resolution = case.media.span, case.outline.model.backbone.resolution
    now = span.rows * span.columns
    for fewer in FEWER:
        most = now * TOKEN // fewer
        if case.media.grid is None or most < MIN_PIXELS:
            return
        smaller = _resized(case, len(span.times), size, resolution.limited(most))
        if smaller.media.span.rows * smaller.media.span.columns >= now:
            return
        yield f"--max-pixels {most}", smaller


def _resized(case: Case, steps: int, size: tuple[int, int], resolution: Resolution) -> Case:
    """The same with the given number of temporal steps, of frames of `size` in the file."""
    was = case.media.span
    rows, columns = (side // FACTOR for side in resolution.size(*size, STEP * steps, was.image))
    span = replace(was, times=was.times[:steps], rows=rows, columns=columns)
    media = replace(case.media, span=span, grid=(steps, MERGE * rows, MERGE * columns))
    shrunk = steps * rows * columns / (len(was.times) * was.rows * was.columns)
    return replace(case, media=media, clip_bytes=int(case.clip_bytes * shrunk))
