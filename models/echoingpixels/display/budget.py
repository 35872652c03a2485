"""Kept tokens over time: counts by kind in equal parts of a clip."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..inputs.kept import ByKind
from ..inputs.positions import AUDIO_TOKENS_PER_S, Span

MOST_PARTS = 80
PART = 0.2  # s of a part of a clip without video: five audio tokens
SLACK = 1e-4  # s; times are float32, and a step on a boundary belongs to the later part


@dataclass(frozen=True)
class KeptOverTime:
    """Kept tokens in parts of `part` s from the clip's start; the last part may extend past its end."""

    part: float  # s
    video: tuple[int, ...]  # image tokens too
    audio: tuple[int, ...]

    @property
    def most(self) -> int:
        """Video and audio tokens of the fullest part."""
        return max((a + b for a, b in zip(self.video, self.audio, strict=True)), default=0)


def over_time(duration: float, span: Span, kept: ByKind) -> KeptOverTime:
    """The budget of the kept tokens of a clip of `duration` s.

    Parts are whole temporal steps if the clip has video; there are none for an image.
    """
    if duration <= 0:
        return KeptOverTime(PART, (), ())
    step = float(np.median(np.diff(span.times))) if len(span.times) > 1 else PART
    part = step * max(1, math.ceil(duration / step / MOST_PARTS - SLACK))
    parts = math.ceil(duration / part - SLACK)
    cells = span.rows * span.columns
    video = _counts((span.times[n // cells] for n in kept.video), part, parts)
    return KeptOverTime(part, video, _counts((n / AUDIO_TOKENS_PER_S for n in kept.audio), part, parts))


def _counts(times: Iterable[float], part: float, parts: int) -> tuple[int, ...]:
    """Numbers of times in each part."""
    found = [0] * parts
    for time in times:
        found[min(parts - 1, int((time + SLACK) / part))] += 1
    return tuple(found)
