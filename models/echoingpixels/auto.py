"""How many tokens are enough: from the quality that is wanted, by a sieve's calibration, to each row's k.

Knows nothing about how scores are made, or the calibration (calibrate.py).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .errors import OptionError
from .options import Auto
from .stream import budget

LEAST, MOST = 0.02, 0.5  # of the pool: however sure or unsure the scores are

Table = tuple[tuple[float, float], ...]  # (quality, mass), both ascending


def check_table(table: Table) -> Table:
    """Return a calibration table, else raise OptionError."""
    masses = [mass for _, mass in table]
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(table))
    if not table or not rising or not 0 <= masses[0] <= masses[-1] <= 1:
        raise OptionError(f"A table for auto has (quality, mass) ascending, mass in [0, 1], not {list(table)}.")
    return table


def mass_for(table: Table, keep: Auto) -> float:
    """The share of the scores' softmax mass to keep: linear between the table's entries, its nearest end beyond."""
    qualities, masses = zip(*table, strict=True)
    return float(np.interp(keep.quality, qualities, masses))


def beyond(table: Table, keep: Auto) -> str | None:
    """What is to be said of a quality that the table does not reach; None where it does."""
    low, high = table[0][0], table[-1][0]
    if low <= keep.quality <= high:
        return None
    taken = min(max(keep.quality, low), high)
    return f"{keep} is outside what this sieve was calibrated for ({low:.3g} to {high:.3g}): taken as {taken:.3g}."


def enough(shares: Tensor, pool: Tensor, mass: float) -> Tensor:
    """The least k (B,) whose largest shares (B, L) add up to `mass`, between LEAST and MOST of each row's pool (B, L).

    Shares are a softmax over the pool, float32, and 0 outside.
    """
    reached = shares.double().sort(dim=1, descending=True).values.cumsum(1)  # (B, L)
    k = (reached < mass).sum(1) + 1
    return torch.minimum(torch.maximum(k, budget(pool, LEAST)), budget(pool, MOST))
