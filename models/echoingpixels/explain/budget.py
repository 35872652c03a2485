"""Kept tokens over time: counts by kind in equal parts of the clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .explanation import Choice, Explanation

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


def over_time(explanation: Explanation, choice: Choice) -> KeptOverTime:
    """The budget of one choice. Parts are whole temporal steps if the clip has video; there are none for an image."""
    duration, steps = explanation.clip.duration, explanation.span.times
    if duration <= 0:
        return KeptOverTime(PART, (), ())
    step = float(np.median(np.diff(steps))) if len(steps) > 1 else PART
    part = step * max(1, math.ceil(duration / step / MOST_PARTS - SLACK))
    parts = math.ceil(duration / part - SLACK)
    video, audio = [0] * parts, [0] * parts
    for i in choice.kept:
        token = explanation.tokens[i]
        row = audio if token.cell is None else video
        row[min(parts - 1, int((token.time + SLACK) / part))] += 1
    return KeptOverTime(part, tuple(video), tuple(audio))
