"""The number of tokens in a row of a stream, as the host knows it without waiting for the device."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RowSize:
    """Numbers of a row's tokens: `pool` of audio, video and images."""

    pool: int
    text: int

    @property
    def total(self) -> int:
        """All tokens."""
        return self.pool + self.text

    def __add__(self, other: RowSize) -> RowSize:
        return RowSize(self.pool + other.pool, self.text + other.text)

    def kept(self, share: float, absent: int = 0) -> int:
        """ceil(n · share) of the n tokens of the pool and `absent` more, at least 1, at most the pool: see `budget`."""
        return min(self.pool, max(1, math.ceil((self.pool + absent) * share)))
