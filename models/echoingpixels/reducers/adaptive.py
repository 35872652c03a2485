"""The adaptive keep ratio: from a question and a sieve's scores to the chance of a right answer at each ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError
from ..inputs.positions import AUDIO
from ..inputs.token_stream import TokenStream, packed
from ..options import Auto

LEAST, MOST = 0.02, 0.5  # limits of the keep ratio
RATIOS = (LEAST, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, MOST)
TINY = 1e-12


@dataclass(frozen=True)
class Enough:
    """A sieve's calibration. The logit of being right at a keep ratio r is, with x = log r and features f of F numbers,

    (1, f) · level + x · (1, f) · slope + x² · curve.

    Tokens have a price: the ratio r of RATIOS with the greatest chance - price · r is used. `table`: pairs (quality,
    price); quality is the share of the accuracy with all tokens that was measured at that price. Quality ascends and
    the price falls.
    """

    level: tuple[float, ...]  # (F + 1,)
    slope: tuple[float, ...]  # (F + 1,)
    curve: float
    table: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        falls = all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(self.table))
        if not self.table or not falls or self.table[-1][1] <= 0:
            what = f"A calibration has (quality, price) with quality ascending and prices falling, not {self.table}."
            raise OptionError(what)
        if len(self.level) != len(self.slope):
            raise OptionError(f"A calibration has {len(self.level)} levels and {len(self.slope)} slopes.")

    def price(self, keep: Auto) -> float:
        """The price at a quality: interpolated between the table's entries in its logarithm, constant beyond them."""
        qualities, prices = zip(*self.table, strict=True)
        return math.exp(np.interp(keep.quality, qualities, [math.log(price) for price in prices]))

    def chances(self, features: Tensor) -> Tensor:
        """Chances of a right answer: features (B, F) → (B, len(RATIOS)) float64."""
        x = torch.tensor(RATIOS, dtype=torch.float64, device=features.device).log()
        known = torch.cat([torch.ones_like(features[:, :1]), features], 1).double()  # (B, F + 1)
        level, slope = (known @ known.new_tensor(one) for one in (self.level, self.slope))  # (B,)
        return torch.sigmoid(level[:, None] + x * slope[:, None] + x.square() * self.curve)

    def ratios(self, features: Tensor, price: float) -> list[float]:
        """The keep ratio for each row of features (B, F); of equally good ones the least."""
        gain = self.chances(features) - price * features.new_tensor(RATIOS, dtype=torch.float64)
        return [RATIOS[i] for i in gain.argmax(1).tolist()]


def features(stream: TokenStream, shares: Tensor) -> Tensor:
    """The features that the keep ratio depends on: (B, D + 2) float32.

    The mean embedding of the question, the audio's part of the scores' softmax `shares` (B, L), and the effective
    number of tokens of that softmax as a share of the pool.
    """
    index, asked = packed(stream.after_media)  # (B, K) both: no float32 copy of the whole stream
    rows = torch.arange(len(index), device=index.device)[:, None]  # (B, 1)
    total = (stream.embeds[rows, index].float() * asked[..., None]).sum(1)
    meaning = total / asked.sum(1, keepdim=True).clamp(min=1)  # (B, D)
    audio = (shares * (stream.kind == AUDIO)).sum(1, keepdim=True)
    spread = torch.exp(-(shares * shares.clamp(min=TINY).log()).sum(1, keepdim=True))
    return torch.cat([meaning, audio, spread / stream.pool.sum(1, keepdim=True).clamp(min=1)], 1)


def beyond(table: tuple[tuple[float, float], ...], keep: Auto) -> str | None:
    """A warning for a quality outside the calibrated range; None inside it."""
    low, high = table[0][0], table[-1][0]
    if low <= keep.quality <= high:
        return None
    taken = min(max(keep.quality, low), high)
    return f"{keep} is outside the range of this sieve's calibration ({low:.3g} to {high:.3g}): {taken:.3g} is used."
