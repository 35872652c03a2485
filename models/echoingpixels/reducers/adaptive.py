"""How many tokens are enough: from a question and a sieve's scores to the chance of a right answer at each keep ratio.

Knows nothing about how scores are made, or how the chances were learned (calibrate.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError
from ..inputs.positions import AUDIO
from ..inputs.stream import Stream, packed
from ..options import Auto

LEAST, MOST = 0.02, 0.5  # of the pool: however easy or hard a question is
RATIOS = (LEAST, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, MOST)
TINY = 1e-12


@dataclass(frozen=True)
class Enough:
    """A sieve's calibration. The logit of being right at a keep ratio r is, with x = log r and features f of F numbers,

    (1, f) · level + x · (1, f) · slope + x² · curve.

    Tokens have a price: of RATIOS the one is taken at which chance - price · r is greatest, so that they go where
    they help most. `table`: (quality, price), the share of the accuracy with all tokens that a price was measured to
    give; quality ascends, and the price falls.
    """

    level: tuple[float, ...]  # (F + 1,)
    slope: tuple[float, ...]  # (F + 1,)
    curve: float
    table: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        falls = all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(self.table))
        if not self.table or not falls or self.table[-1][1] <= 0:
            said = f"A calibration has (quality, price) with quality ascending and prices falling, not {self.table}."
            raise OptionError(said)
        if len(self.level) != len(self.slope):
            raise OptionError(f"A calibration has {len(self.level)} levels and {len(self.slope)} slopes.")

    def price(self, keep: Auto) -> float:
        """What tokens cost at a quality: between the table's entries linear in its logarithm, beyond them the end's."""
        qualities, prices = zip(*self.table, strict=True)
        return math.exp(np.interp(keep.quality, qualities, [math.log(price) for price in prices]))

    def chances(self, features: Tensor) -> Tensor:
        """Of being right: features (B, F) → (B, len(RATIOS)) float64."""
        x = torch.tensor(RATIOS, dtype=torch.float64, device=features.device).log()
        known = torch.cat([torch.ones_like(features[:, :1]), features], 1).double()  # (B, F + 1)
        level, slope = (known @ known.new_tensor(one) for one in (self.level, self.slope))  # (B,)
        return torch.sigmoid(level[:, None] + x * slope[:, None] + x.square() * self.curve)

    def ratios(self, features: Tensor, price: float) -> list[float]:
        """The keep ratio for each row of features (B, F); of equally good ones the least."""
        gain = self.chances(features) - price * features.new_tensor(RATIOS, dtype=torch.float64)
        return [RATIOS[i] for i in gain.argmax(1).tolist()]


def features(stream: Stream, shares: Tensor) -> Tensor:
    """What tells how many tokens a question takes: (B, D + 2) float32.

    The mean embedding of what is asked, the audio's part of the scores' softmax `shares` (B, L), and over how many
    tokens these are spread, as a part of all.
    """
    index, asked = packed(stream.asked)  # (B, K) both: no float32 copy of the whole stream
    rows = torch.arange(len(index), device=index.device)[:, None]  # (B, 1)
    total = (stream.embeds[rows, index].float() * asked[..., None]).sum(1)
    meaning = total / asked.sum(1, keepdim=True).clamp(min=1)  # (B, D)
    heard = (shares * (stream.kind == AUDIO)).sum(1, keepdim=True)
    spread = torch.exp(-(shares * shares.clamp(min=TINY).log()).sum(1, keepdim=True))
    return torch.cat([meaning, heard, spread / stream.pool.sum(1, keepdim=True).clamp(min=1)], 1)


def beyond(table: tuple[tuple[float, float], ...], keep: Auto) -> str | None:
    """What is to be said of a quality that the table does not reach; None where it does."""
    low, high = table[0][0], table[-1][0]
    if low <= keep.quality <= high:
        return None
    taken = min(max(keep.quality, low), high)
    return f"{keep} is outside what this sieve was calibrated for ({low:.3g} to {high:.3g}): taken as {taken:.3g}."
