"""Ways to choose tokens that need no training: baselines and controls for CS2.

Each is `(stream, keep) -> Selection`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .options import REDUCER_NAMES, SIEVED
from .stream import Selection, Stream, budget, top_k

Reducer = Callable[[Stream, float], Selection]
SEED = 0


def full(stream: Stream, keep: float = 1.0) -> Selection:
    """Every token, whatever the ratio."""
    return Selection(keep=stream.mask)


def uniform(stream: Stream, keep: float) -> Selection:
    """Evenly spaced tokens of the pool in stream order, so evenly in time and space."""
    pool = stream.pool
    n = pool.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    k = budget(pool, keep)[:, None]  # (B, 1)
    place = pool.cumsum(1) - 1  # (B, L) index within the pool
    first_of_bin = ((place + 1) * k) // n != (place * k) // n
    return Selection(keep=(pool & first_of_bin) | (stream.mask & ~pool))


def random(stream: Stream, keep: float) -> Selection:
    """Tokens drawn at random from the pool; the same ones for the same stream."""
    generator = torch.Generator().manual_seed(SEED)
    scores = torch.rand(stream.mask.shape[1], generator=generator).to(stream.mask.device)
    # drawn by place in the pool, so that padding does not change a row's choice
    by_place = scores[(stream.pool.cumsum(1) - 1).clamp(min=0)]  # (B, L)
    chosen = top_k(by_place, stream.pool, budget(stream.pool, keep))
    return Selection(keep=chosen | (stream.mask & ~stream.pool), scores=by_place)


REDUCERS: dict[str, Reducer] = {"full": full, "uniform": uniform, "random": random}
assert (*SIEVED, *REDUCERS) == REDUCER_NAMES, f"options.py names {REDUCER_NAMES}"
