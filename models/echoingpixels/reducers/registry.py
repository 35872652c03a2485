"""The reducers by name. A reducer chooses the tokens of a stream that the decoder reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ..backbones.base import Backbone, Shape
from ..backbones.sizes import sieve_flops
from ..inputs.token_stream import Selection, TokenStream, budget, top_k
from ..options import KEEP, REDUCER_NAMES, SIEVED, Auto
from .adaptive import features
from .chunked_scoring import passes
from .cs2 import Sieve, no_sieve, no_table

Choose = Callable[[Backbone, Sieve | None, TokenStream, float], Selection]
ScoringFlops = Callable[[Shape, Sieve | None, int], float]


def free(shape: Shape, sieve: Sieve | None, tokens: int) -> float:
    """A choice without matrix products."""
    return 0.0


@dataclass(frozen=True)
class Reducer:
    """`choose(backbone, sieve, stream, keep)` returns a Selection and changes nothing.

    `flops(shape, sieve, tokens)`: floating-point operations to score that many tokens at once.
    """

    choose: Choose
    flops: ScoringFlops = free
    needs_sieve: bool = False


def register(name: str, reducer: Reducer) -> None:
    """Add a reducer, or replace one, under a name that options and commands then accept."""
    REDUCERS[name] = reducer
    if name not in REDUCER_NAMES:
        REDUCER_NAMES.append(name)
    SIEVED.discard(name)
    if reducer.needs_sieve:
        SIEVED.add(name)


def cs2(backbone: Backbone, sieve: Sieve | None, stream: TokenStream, keep: float) -> Selection:
    """The sieve's own choice: the best of one pool."""
    if sieve is None:
        raise no_sieve(backbone.name)
    selection: Selection = sieve(stream, keep)
    return selection


def cs2_flops(shape: Shape, sieve: Sieve | None, tokens: int) -> float:
    """The sieve's layers and score head."""
    return 0.0 if sieve is None else sieve_flops(shape, tokens, sieve.options.layers)


def automatic(backbone: Backbone, sieve: Sieve | None, stream: TokenStream, keep: Auto) -> Selection:
    """The number of best tokens that the calibrated sieve expects each row to need for the quality asked for."""
    if sieve is None:
        raise no_sieve(backbone.name)
    calibration = sieve.options.auto
    if calibration is None:
        raise no_table(backbone.name)
    selection = cs2(backbone, sieve, stream, KEEP)
    if selection.scores is None:
        return selection
    known = features(stream, sieve.shares(selection.scores, stream.pool))
    k = budget(stream.pool, calibration.ratios(known, calibration.price(keep)))
    chosen = top_k(selection.scores, stream.pool, k)
    return replace(selection, keep=chosen | (stream.mask & ~stream.pool))


def selection_flops(name: str, shape: Shape, sieve: Sieve | None, pool: int, text: int) -> float:
    """Floating-point operations to choose among `pool` audio and video tokens beside `text` tokens."""
    return sum(REDUCERS[name].flops(shape, sieve, tokens) for tokens in passes(pool, text))


def _basic(name: str, _: Backbone, __: Sieve | None, stream: TokenStream, keep: float) -> Selection:
    from . import basic

    selection: Selection = getattr(basic, name)(stream, keep)
    return selection


def _by_attention(name: str, backbone: Backbone, _: Sieve | None, stream: TokenStream, keep: float) -> Selection:
    from . import attention

    selection: Selection = getattr(attention, name)(backbone, stream, keep)
    return selection


def _attention_flops(shape: Shape, sieve: Sieve | None, tokens: int) -> float:
    from .attention import attended_flops

    return attended_flops(shape, tokens)


REDUCERS: dict[str, Reducer] = {
    "cs2": Reducer(cs2, cs2_flops, needs_sieve=True),
    **{name: Reducer(partial(_basic, name)) for name in ("full", "uniform", "random", "repeats")},
    **{name: Reducer(partial(_by_attention, name), _attention_flops) for name in ("fastv", "relevance")},
}
assert set(REDUCERS) == set(REDUCER_NAMES), "options.py names the reducers"
