"""Schedules of token selection inside the decoder: after which layers, how many tokens, and by which rule.

`SEATS`: the second stage of SEATS (arXiv 2605.20035). `FASTV`: FastV (arXiv 2403.06764). Both score a token by the
attention of the prompt's last token in the layer before, softmax over the whole sequence, mean over heads. Here every
layer keeps the KV entries of the tokens that it read, so generated tokens attend to dropped tokens in those layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..inputs.descent import Choose, Drop
from ..inputs.token_stream import Selection, TokenStream, top_k
from .budget import WINDOW_S, dense, ordered, place_in_run

TEMPERATURE = 0.1  # of the softmax that divides a budget between windows


@dataclass(frozen=True)
class DropPlan:
    """A schedule for one decoder and ratio: the share of the tokens that enters it, and the drops inside."""

    share: float
    drops: tuple[Drop, ...]


@dataclass(frozen=True)
class Schedule:
    """Tokens dropped inside the decoder so that their mean over its layers meets a ratio.

    `after`: layers that run before each drop, in a decoder of `depth` layers; in another one, the same shares of its
    layers, rounded, at least 1. Drops that round to the same layer are one. `removed`: tokens removed at each drop, in
    proportion. `enter`: tokens that enter the decoder, as a multiple of the ratio; None: all tokens.
    `rule(share)`: the rule that keeps a share of the tokens.
    """

    after: tuple[int, ...]
    depth: int
    removed: tuple[float, ...]
    rule: Callable[[float], Choose]
    enter: float | None = None

    def at(self, layers: int, keep: float) -> DropPlan:
        """The schedule in a decoder of `layers` layers, for a mean over the layers of `keep`.

        Where even dropping all tokens reads more, fewer enter, or the mean is above `keep` where all have to.
        """
        after = [max(1, round(n * layers / self.depth)) for n in self.after if layers > 1]
        share = 1.0
        if self.enter is not None:
            least = mean(after, alive(after, self.removed, layers, 0.0), layers)
            share = min(1.0, keep * min(self.enter, 1 / least))
        left = alive(after, self.removed, layers, keep / share)
        drops, before = [], 1.0
        for i, (layer, now) in enumerate(zip(after, left, strict=True)):
            if now < before and layer not in after[i + 1 :]:
                drops.append(Drop(layer, self.rule(now / before)))
                before = now
        return DropPlan(share, tuple(drops))


def alive(
    after: Sequence[int], removed: Sequence[float], layers: int, share: float, end: int | None = None
) -> list[float]:
    """The share of the tokens left after each drop, so that the mean over the layers is `share`, if one from 0 to 1 is.

    `after`: layers that run before each drop, ascending. `removed`: in proportion, the tokens removed at each.
    `end`: layers that read any token at all, where the last ones read none.
    """
    end = layers if end is None else end
    total, parts, so_far = sum(removed), [], 0.0
    for part in removed[: len(after)]:
        so_far += part / total
        parts.append(so_far)
    saved = sum(part * n for part, n in zip(parts, _lengths(after, end), strict=True))
    all_removed = min(1.0, max(0.0, (end - share * layers) / saved)) if saved else 0.0
    return [max(0.0, 1 - all_removed * part) for part in parts]


def mean(after: Sequence[int], left: Sequence[float], layers: int) -> float:
    """The mean over the layers of tokens read, as a share of those that enter, with `left` of them after each drop."""
    return 1 - sum((1 - share) * n for share, n in zip(left, _lengths(after, layers), strict=True)) / layers


def _lengths(after: Sequence[int], end: int) -> list[int]:
    """The number of layers between one drop and the next, before layer `end`."""
    return [max(0, min(last, end) - first) for first, last in pairwise([*after, end])]


@dataclass(frozen=True)
class MostAttended:
    """A share of the pool, rounded up: the tokens with the most attention."""

    share: float

    def __call__(self, stream: TokenStream, attention: Tensor) -> Selection:
        """Select by attention (B, L) float32."""
        k = (stream.pool.sum(1).double() * self.share).ceil().long().clamp(min=1)  # (B,)
        chosen = top_k(attention, stream.pool, k) | (stream.mask & ~stream.pool)
        return Selection(keep=chosen, kept=stream.budgets(self.share))


@dataclass(frozen=True)
class MostAttendedByWindow:
    """A share of the video tokens and of the audio tokens, divided between windows of WINDOW_S; see `by_window`."""

    share: float

    def __call__(self, stream: TokenStream, attention: Tensor) -> Selection:
        """Select by attention (B, L) float32."""
        kinds = torch.stack([stream.vision, stream.pool & ~stream.vision])  # (2, B, L)
        k = (kinds.sum(2).double() * self.share).round().long()
        window = dense((stream.time / WINDOW_S).floor(), stream.pool)
        return Selection(keep=by_window(attention, kinds, window, k) | (stream.mask & ~stream.pool))


def by_window(scores: Tensor, kinds: Tensor, window: Tensor, k: Tensor) -> Tensor:
    """The tokens with the highest scores (B, L) in each window and of each kind: (B, L) bool.

    `kinds`: (2, B, L) bool, video tokens and audio tokens. `window`: (B, L) int64 in 0 to L - 1. `k`: (2, B) int64,
    tokens to keep of each kind. Windows share the sum of both by the softmax, at TEMPERATURE, of each kind's mean
    score, mean over the kinds; a window divides its share between the kinds in proportion to `k`. Both are rounded, and
    what is missing or too much is dealt out one by one, first window first. A window keeps at least one token of each
    kind that it has. Source: SEATS (arXiv 2605.20035), stage II.
    """
    here = torch.zeros(kinds.shape, dtype=torch.double, device=scores.device)  # (2, B, windows)
    where = window.expand(kinds.shape)
    n = here.scatter_add(2, where, kinds.double())
    means = here.scatter_add(2, where, scores * kinds.double()) / n.clamp(min=1)
    shares = (means / TEMPERATURE).masked_fill(n == 0, -torch.inf).softmax(2).nan_to_num()  # a kind without tokens: 0
    share = shares.sum(0) / (n > 0).any(2).sum(0).clamp(min=1)[:, None]  # (B, windows)
    total, least = k.sum(0), n.clamp(max=1)
    size = (share * total[:, None]).round().clamp(min=least.sum(0), max=n.sum(0)).long()
    missing = total - size.sum(1)
    size = size + _dealt(n.sum(0).long() - size, missing) - _dealt(size - least.sum(0).long(), -missing)
    video = (size * k[0, :, None] / total.clamp(min=1)[:, None]).round()
    video = video.maximum(least[0]).maximum(size - n[1]).minimum(n[0]).minimum(size - least[1])
    kept = torch.stack([torch.zeros_like(video), video, size - video], 2).flatten(1)  # (B, 3 · windows)
    group = 3 * window + kinds[0] + 2 * kinds[1]
    order = ordered(group, scores)
    place = torch.empty_like(order).scatter_(1, order, place_in_run(group.gather(1, order)))
    return place < kept.gather(1, group)


def _dealt(room: Tensor, units: Tensor) -> Tensor:
    """`units` (B,) dealt one by one, in order and round after round, to places with `room` (B, N): (B, N) int64."""
    rounds = torch.zeros_like(units)[:, None]  # of which no place has more
    for bit in reversed(range(math.ceil(math.log2(room.shape[1] + 1)) + 1)):
        more = rounds + 2**bit
        rounds = torch.where(room.minimum(more).sum(1, keepdim=True) <= units[:, None], more, rounds)
    dealt, places = room.minimum(rounds), room > rounds
    rest = (units - dealt.sum(1)).clamp(min=0)[:, None]
    return dealt + (places & (places.cumsum(1) <= rest))


# Both in the depth at which they were published; 36 layers give SEATS's own 21, 23 and 26.
SEATS = Schedule((16, 18, 20), 28, (1.0, math.e, math.e**2), MostAttendedByWindow, enter=1.4)
FASTV = Schedule((2,), 32, (1.0,), MostAttended)
