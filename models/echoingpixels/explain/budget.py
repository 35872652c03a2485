"""The kept tokens over time: counted by kind in equal parts of the clip. Knows nothing about how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .explanation import Choice, Explanation

MOST_PARTS = 80
PART = 0.2  # s of a part where the picture has no steps: five audio tokens
SLACK = 1e-4  # s; times are float32, and a step at the seam belongs to the part that it begins


@dataclass(frozen=True)
class Budget:
    """Kept tokens in parts of `part` s each, from the clip's start; the last part may reach past its end."""

    part: float  # s
    seen: tuple[int, ...]
    heard: tuple[int, ...]

    @property
    def most(self) -> int:
        """Tokens of the fullest part, seen and heard together."""
        return max((a + b for a, b in zip(self.seen, self.heard, strict=True)), default=0)


def over_time(explanation: Explanation, choice: Choice) -> Budget:
    """The budget of one choice; parts are whole temporal steps of the picture, where it has any. Empty for a still."""
    duration, steps = explanation.clip.duration, explanation.span.times
    if duration <= 0:
        return Budget(PART, (), ())
    step = float(np.median(np.diff(steps))) if len(steps) > 1 else PART
    part = step * max(1, math.ceil(duration / step / MOST_PARTS - SLACK))
    parts = math.ceil(duration / part - SLACK)
    seen, heard = [0] * parts, [0] * parts
    for i in choice.kept:
        token = explanation.tokens[i]
        row = heard if token.cell is None else seen
        row[min(parts - 1, int((token.time + SLACK) / part))] += 1
    return Budget(part, tuple(seen), tuple(heard))
