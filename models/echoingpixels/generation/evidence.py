"""Evidence times: the moments of a clip that an answer rests on, from the effect of each kept token on the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backbones.base import Backbone
from ..errors import is_out_of_memory
from ..inputs.positions import AUDIO, AUDIO_TOKENS_PER_S, VIDEO, Span
from ..inputs.token_stream import TokenStream

MOST = 3  # moments of an answer
LEAST = 0.1  # share of the effect that a further moment needs
EDGE = 0.5  # a moment ends where the smoothed effect falls below this share of its peak
SMOOTH_S = 0.25  # standard deviation of the smoothing; at least a quarter of a temporal step
BINS = 2.5  # bins in a standard deviation
TINY = 1e-6  # share of the highest peak that is only rounding
OFF = "Evidence times are switched off."
FUSED = "The sieve's fused form mixes the whole clip into the text, so the kept tokens are no evidence."
INSIDE = "The reducer drops tokens inside the decoder, so its layers rest on different tokens."
SEVERAL = "The prompt has several clips, whose times overlap."
TIMELESS = "The prompt has no audio and no video."
EMPTY = "The answer is empty."
NO_GRADIENT = "There are no gradients in torch's inference mode, nor for four-bit weights on a CPU."
NO_MEMORY = "Memory ran out for evidence times; the answer is complete."
NOTHING = "No kept token raises the probability of the answer."

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """A stretch of a clip, in s from its start. `share`: of the effect of all kept tokens, in (0, 1]."""

    start: float
    end: float
    share: float

    def __str__(self) -> str:
        return f"{self.start:.1f}–{self.end:.1f} s"


@dataclass(frozen=True)
class Evidence:
    """The moments that an answer rests on, the highest peak first; without any, the reason."""

    moments: tuple[Moment, ...] = ()
    reason: str | None = None

    def __str__(self) -> str:
        each = (f"{moment} ({100 * moment.share:.0f} %)" for moment in self.moments)
        return ", ".join(each) or f"none: {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"evidence": [asdict(one) for one in self.moments] or None, "no_evidence": self.reason}


@dataclass(frozen=True)
class Timing:
    """Seconds of a clip, and of one of its temporal steps; 0 without video, or where unknown."""

    duration: float = math.inf
    step: float = 0.0

    @classmethod
    def of(cls, span: Span, duration: float) -> Timing:
        """Of an encoded clip; a single step lasts as long as the clip."""
        gaps = [later - earlier for earlier, later in pairwise(span.times)]
        return cls(duration, sum(gaps) / len(gaps) if gaps else duration if span.times else 0.0)


def evidence(
    backbone: Backbone,
    stream: TokenStream,
    cache: Any,
    answers: Sequence[Sequence[int]],
    timings: Sequence[Timing | None],
) -> list[Evidence]:
    """The evidence of each row of a stream (B, L) for its answer, from the KV cache that decoding has left.

    `answers`: generated token ids. The effect of a token is that of its values, in all layers, on the log-odds of the
    answer to first order: gradient × value; only what raises them counts.
    """
    words = [[token for token in ids if token not in backbone.stop_ids] for ids in answers]
    if stream.fused or stream.drops:
        return [Evidence(reason=FUSED if stream.fused else INSIDE)] * len(words)
    mask, kind, time = stream.mask.cpu(), stream.kind.cpu(), stream.time.cpu()
    timed = mask & ((kind == VIDEO) | (kind == AUDIO))
    reasons = [
        TIMELESS if not here else SEVERAL if timing is None else EMPTY
        for here, timing in zip(timed.any(1).tolist(), timings, strict=True)
    ]
    found = [Evidence(reason=reason) for reason in reasons]
    asked = [row for row, reason in enumerate(reasons) if words[row] and reason == EMPTY]
    if not asked:
        return found
    try:
        effect = backbone.contributions(stream, cache, words)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return [Evidence(reason=NO_MEMORY)] * len(words)
    if effect is None:
        return [Evidence(reason=NO_GRADIENT)] * len(words)
    effect = effect.cpu()
    for row in asked:
        here = timed[row]
        each, times, video = (x[row, here].double().numpy() for x in (effect, time, kind == VIDEO))
        made = moments(each, times, video, timings[row] or Timing())
        found[row] = Evidence(made, None if made else NOTHING)
    return found


def moments(effect: Numbers, time: Numbers, video: Numbers, clip: Timing) -> tuple[Moment, ...]:
    """Up to MOST moments from the effects (n,) of tokens at `time` (n,) s; `video` (n,) is 1 for video tokens.

    A video token spreads its effect over its temporal step. A peak of the smoothed effect per second extends to EDGE of
    its height; the next one lies outside its slopes.
    """
    gaps = np.diff(np.unique(time[video > 0]))
    step = clip.step or (float(gaps.min()) if len(gaps) else 0.0)
    width = max(SMOOTH_S, step / 4) / BINS
    lengths = np.where(video > 0, step, 1 / AUDIO_TOKENS_PER_S)
    duration = min(clip.duration, float((time + lengths).max()))
    bins = max(1, math.ceil(duration / width - 1e-6))
    first = np.minimum((time / width + 1e-4).astype(int), bins - 1)
    last = np.clip(np.round((time + lengths) / width).astype(int), first + 1, bins)
    change = np.zeros(bins + 1)
    each = np.maximum(effect, 0) / (last - first)
    np.add.at(change, first, each)
    np.add.at(change, last, -each)
    left = density = _smoothed(change.cumsum()[:-1].clip(min=0))
    total, found = float(density.sum()), list[Moment]()
    while len(found) < MOST and left.max() > TINY * density.max():
        peak = int(left.argmax())
        begin, end = _reach(left >= EDGE * left[peak], peak)
        share = float(density[begin:end].sum()) / total
        if found and share < LEAST:
            break
        found.append(Moment(round(begin * width, 2), round(min(end * width, duration), 2), round(share, 3)))
        falls = np.r_[left[:-1] >= left[1:], True]
        rises = np.r_[True, left[1:] >= left[:-1]]
        low, high = _reach(rises, begin)[0], _reach(falls, end - 1)[1]
        left = left.copy()
        left[low:high] = 0
    return tuple(found)


def _smoothed(density: Numbers) -> Numbers:
    """Smoothed by a Gaussian with a standard deviation of BINS."""
    reach = math.ceil(3 * BINS)
    kernel = np.exp(-((np.arange(-reach, reach + 1) / BINS) ** 2) / 2)
    return np.convolve(density, kernel / kernel.sum())[reach:-reach]


def _reach(inside: npt.NDArray[np.bool_], place: int) -> tuple[int, int]:
    """The first place, and one past the last, of the stretch of True around `place`, which counts as True."""
    outside = np.flatnonzero(~inside)
    before, after = outside[outside < place], outside[outside > place]
    return (int(before[-1]) + 1 if len(before) else 0), (int(after[0]) if len(after) else len(inside))
