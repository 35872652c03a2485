"""A stream's time stamps in seconds of the clip. Knows nothing about what they stamp."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction


def clock(base: Fraction | None, origin: Fraction) -> Callable[[int], float]:
    """A function from time stamps, in units of `base` s, to seconds after `origin` (s), rounded once."""
    base = base or Fraction(1)
    scale, shift = base.numerator * origin.denominator, origin.numerator * base.denominator
    unit = base.denominator * origin.denominator
    return lambda stamp: (stamp * scale - shift) / unit
