"""What to change so that an answer fits into memory: one option at a time, the mildest value that is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from ..inputs.patches import FACTOR, MERGE, STEP, TOKEN, Resolution
from ..model import EchoingPixels
from ..options import MIN_PIXELS, Auto
from .forecast import Case, memory_of

KEEPS = (0.5, 0.2, 0.1, 0.05, 0.02)
QUANTS: dict[str, tuple[str, ...]] = {"none": ("int8", "nf4"), "int8": ("nf4",), "nf4": ()}
FEWER = (2, 4, 8, 16)  # times fewer frames a second, or pixels
GB = 1e9

Ladder = Callable[[Case], Iterator[tuple[str, Case]]]


@dataclass(frozen=True)
class Change:
    """Options as the command line has them, and the peak in bytes with them."""

    options: str
    peak: int

    def told(self, free: int) -> str:
        """What it comes to, beside what there is."""
        off = free - self.peak
        return (
            f"{self.options}: {self.peak / GB:.2f} GB, {abs(off) / GB:.2f} GB {'to spare' if off >= 0 else 'too much'}."
        )


def advice(case: Case, fps: float, size: tuple[int, int], free: int) -> tuple[str, ...]:
    """One line for each option that alone makes it fit; else all of them together, whatever that comes to.

    `fps` is the clip's as read, `size` the (height, width) its frames come in.
    """
    ladders: list[Ladder] = [_quants, _keeps, partial(_fps, fps=fps, size=size), partial(_pixels, size=size)]
    alone = []
    for ladder in ladders:
        tried = (Change(option, memory_of(other).peak) for option, other in ladder(case))
        alone += [change.told(free) for change in islice((c for c in tried if c.peak <= free), 1)]
    if alone:
        return tuple(alone)
    said, smallest = [], case
    for ladder in ladders:
        for option, other in list(ladder(smallest))[-1:]:
            said.append(option)
            smallest = other
    return (Change(" ".join(said), memory_of(smallest).peak).told(free),) if said else ()


def _quants(case: Case) -> Iterator[tuple[str, Case]]:
    model = case.outline.model
    for quant in QUANTS[model.quant]:
        smaller = EchoingPixels(model.backbone, model.sieve, quant)
        yield f"--quant {quant}", replace(case, outline=replace(case.outline, model=smaller))


def _keeps(case: Case) -> Iterator[tuple[str, Case]]:
    now, full = case.options.keep, case.options.reducer == "full"
    if isinstance(now, Auto):
        return
    reducer = "uniform" if full else case.options.reducer
    for keep in KEEPS:
        if full or keep < now:
            name = f"--keep {keep:g} --reducer {reducer}" if full else f"--keep {keep:g}"
            yield name, replace(case, options=replace(case.options, keep=keep, reducer=reducer))


def _fps(case: Case, fps: float, size: tuple[int, int]) -> Iterator[tuple[str, Case]]:
    """Fewer frames; one step more than that gives, as where a clip ends decides on the last."""
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
    """The same with so many steps of frames that are shown at `size`."""
    was = case.media.span
    rows, columns = (side // FACTOR for side in resolution.size(*size, STEP * steps, was.image))
    span = replace(was, times=was.times[:steps], rows=rows, columns=columns)
    media = replace(case.media, span=span, grid=(steps, MERGE * rows, MERGE * columns))
    shrunk = steps * rows * columns / (len(was.times) * was.rows * was.columns)
    return replace(case, media=media, clip_bytes=int(case.clip_bytes * shrunk))
