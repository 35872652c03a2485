"""Budgets, the third part of a reducer: the number of kept tokens, and how many of them each group gets at least.

A budget divides the pool into parts for picks that compare tokens with each other, and makes the selection from ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..inputs.farthest import Floor
from ..inputs.positions import AUDIO
from ..inputs.token_stream import TokenStream, budget
from ..options import check_keep

WINDOW_S = 2.0  # the model's own chunk of interleaved video and audio
AUDIO_WINDOW = 50  # tokens of 2 s of audio
VIDEO_WINDOW = 2  # temporal grids of video
PART = 2048  # tokens of the pool that a pick compares with each other
SPARE = 2  # a part of a longer pool ranks this many times its share, so that parts with more content get more
ROUNDING = 1e-9  # of a share in float64: 0.2 of 35 tokens is 7


@dataclass(frozen=True)
class Pool:
    """R rows of up to W tokens that compete for one budget."""

    mask: Tensor  # (R, W) bool, False where there is no audio, video or image token
    kind: Tensor  # (R, W) int64, an index into KINDS
    time: Tensor  # (R, W) float32 s
    absent: Tensor | None = None  # (R,) int64, further tokens that the encoder dropped; None: none

    @property
    def audio(self) -> Tensor:
        """(R, W) bool: the audio tokens."""
        return self.mask & (self.kind == AUDIO)


@dataclass(frozen=True)
class Parts:
    """Tokens of a stream in R rows of up to W. Each row is picked from by itself, `k` (R,) tokens."""

    place: Tensor  # (R, W) int64 into the flattened stream, B·L where there is no token
    pool: Pool  # (R, W)
    k: Tensor  # (R,) int64
    steps: int  # a limit of k that the host knows
    floors: tuple[Floor, ...] = ()


class Budget(Protocol):
    """The number of tokens to keep, and its division."""

    def fill(self, ranks: Tensor, stream: TokenStream, keep: float) -> Tensor:
        """The kept tokens of the pool (B, L) bool, by ranks (B, L) float32; -inf for a token that is not picked.

        A token of rank 0, such as an exact repeat of a kept one, is not needed to reach a floor.
        """
        ...

    def counts(self, stream: TokenStream, keep: float) -> tuple[int, ...] | None:
        """The number of kept tokens of each row, where the host knows it without waiting for the device."""
        ...

    def parts(self, stream: TokenStream, keep: float) -> Parts:
        """The parts of the pool for a pick that compares tokens."""
        ...


@dataclass(frozen=True)
class Whole:
    """All tokens, for any ratio."""

    def fill(self, ranks: Tensor, stream: TokenStream, keep: float) -> Tensor:
        """The pool."""
        return stream.pool

    def counts(self, stream: TokenStream, keep: float) -> tuple[int, ...] | None:
        """See `Budget.counts`."""
        return None if stream.sizes is None else tuple(row.pool for row in stream.sizes)

    def parts(self, stream: TokenStream, keep: float) -> Parts:
        """Those of one pool."""
        return OnePool().parts(stream, keep)


@dataclass(frozen=True)
class OnePool:
    """ceil(n · keep) of the n audio, video and image tokens, best first, once floors are filled.

    `modality`: share of the budget that audio gets at least, and so does vision, as far as it has tokens. `time`: share
    that is spread evenly over windows of WINDOW_S.
    """

    modality: float = 0.0
    time: float = 0.0

    def fill(self, ranks: Tensor, stream: TokenStream, keep: float) -> Tensor:
        """See `Budget.fill`."""
        pool = Pool(stream.pool, stream.kind, stream.time, stream.absences)
        k = self.size(pool, keep)
        return filled(ranks, pool.mask, k, self.floors(pool, k))

    def counts(self, stream: TokenStream, keep: float) -> tuple[int, ...] | None:
        """See `Budget.counts`."""
        return stream.budgets(keep)

    def parts(self, stream: TokenStream, keep: float) -> Parts:
        """One part for each row, or equal windows of at most PART tokens of a longer pool. Does not synchronize."""
        pool = stream.pool
        rows, length = pool.shape
        n, k = pool.sum(1, keepdim=True), stream.budget(keep)[:, None]  # (B, 1)
        width = min(length, PART)
        most = -(-length // width)  # parts that a row can have
        parts = (-(-n // width)).clamp(min=1)  # (B, 1) parts that it has
        index = pool.cumsum(1) - 1  # (B, L) of a token in its row's pool
        part = index * parts // n.clamp(min=1)
        edge = torch.arange(most + 1, device=pool.device)  # (most + 1,)
        first = (-(-edge * n // parts)).clamp(max=n)  # (B, most + 1) index of each part's first token
        size = first.diff(dim=1)  # (B, most)
        row = torch.arange(rows, device=pool.device)[:, None]  # (B, 1)
        slot = (row * most + part) * width + index - first.gather(1, part.clamp(0, most))
        outside = rows * most * width
        place = torch.full((outside + 1,), rows * length, device=pool.device)
        token = torch.arange(rows * length, device=pool.device).view(rows, length)
        place = place.scatter_(0, torch.where(pool, slot, outside).flatten(), token.flatten())[:-1]
        place = place.view(rows * most, width)
        share = torch.where(parts > 1, (SPARE * size * k + n - 1) // n.clamp(min=1), k).minimum(size).flatten()
        steps = min(width, int(width * check_keep(keep) * stream.most_present * (SPARE if most > 1 else 1)) + 3)
        inside = at(place, stream)
        return Parts(place, inside, share, steps, self.floors(inside, share))

    def size(self, pool: Pool, keep: float) -> Tensor:
        """Kept tokens of each row (R,), as of `counts`."""
        return budget(pool.mask, keep, pool.absent)

    def floors(self, pool: Pool, k: Tensor) -> tuple[Floor, ...]:
        """The floors of k (R,) tokens of a pool, in the order in which they are filled."""
        found = []
        if self.time:
            window = dense(torch.where(pool.mask, pool.time / WINDOW_S, -1.0).floor(), pool.mask)
            share = (self.time * k.double() / (window.amax(1) + 1)).floor().long()
            found.append(Floor(window, share[:, None].expand_as(window)))
        least = self.least(torch.stack([(pool.mask & ~pool.audio).sum(1), pool.audio.sum(1)], 1), k[:, None])
        if least is not None:
            found.append(Floor(pool.audio.long(), least))
        return tuple(found)

    def least(self, n: Tensor, k: Tensor) -> Tensor | None:
        """The least number of vision and audio tokens (R, 2) of k (R, 1), with n (R, 2) of them; None for no floor."""
        if not self.modality:
            return None
        return (self.modality * k.double() - ROUNDING).ceil().long().minimum(n)


@dataclass(frozen=True)
class EachWindow:
    """max(1, round(n · keep)) of the n tokens of each window of one modality: 2 s of audio, 2 temporal grids of video.

    `audio`: the ratio of audio; None: the same as of video. Source: the first stage of SEATS (arXiv 2605.20035).
    """

    audio: float | None = None

    def fill(self, ranks: Tensor, stream: TokenStream, keep: float) -> Tensor:
        """See `Budget.fill`."""
        group, _, quota = self._windows(stream, keep)
        return filled(ranks, stream.pool, quota.sum(1), (Floor(group, quota),))

    def counts(self, stream: TokenStream, keep: float) -> tuple[int, ...] | None:
        """None: the host does not know the windows' sizes."""
        return None

    def parts(self, stream: TokenStream, keep: float) -> Parts:
        """One part for each window. The host waits for their number and the size of the largest."""
        group, n, quota = self._windows(stream, keep)
        rows, length = group.shape
        count, width, steps = torch.stack([group.amax() + 1, n.amax(), quota.amax()]).tolist()
        order = group.masked_fill(~stream.pool, length).argsort(dim=1, stable=True)  # window by window
        first = n.cumsum(1) - n  # (B, L) place of each window's first token in that order
        slot = first[:, :count, None] + torch.arange(max(1, width), device=group.device)  # (B, count, width)
        real = slot < (first + n)[:, :count, None]
        token = order.gather(1, slot.clamp(max=length - 1).flatten(1)).view_as(slot)
        token = token + length * torch.arange(rows, device=group.device)[:, None, None]
        place = torch.where(real, token, rows * length).flatten(0, 1)
        return Parts(place, at(place, stream), quota[:, :count].flatten(), steps)

    def _windows(self, stream: TokenStream, keep: float) -> tuple[Tensor, Tensor, Tensor]:
        """The window of each token (B, L), and the size and the quota of each window (B, L), 0 beyond the last."""
        pool = Pool(stream.pool, stream.kind, stream.time)
        audio, vision = pool.audio, pool.mask & ~pool.audio
        order = vision.argsort(dim=1, descending=True, stable=True)  # vision tokens side by side
        time = stream.time.gather(1, order)
        grid = torch.empty_like(order).scatter_(1, order, (time != time.roll(1, dims=1)).long().cumsum(1) - 1)
        window = torch.where(audio, (audio.cumsum(1) - 1) // AUDIO_WINDOW, grid.clamp(min=0) // VIDEO_WINDOW)
        group = dense(2 * window + audio, pool.mask)
        n = torch.zeros_like(group).scatter_add_(1, group, pool.mask.long())
        of_audio = torch.zeros_like(group).scatter_add_(1, group, audio.long()) > 0
        whole = n.double()
        if (absent := stream.absences) is not None:  # vision tokens stand for those that their encoder dropped
            whole = torch.where(of_audio, whole, whole * (1 + absent / vision.sum(1).clamp(min=1))[:, None])
        share = torch.where(of_audio, whole * check_keep(self.audio or keep), whole * check_keep(keep))
        return group, n, share.round().long().clamp(min=1).minimum(n)


def filled(ranks: Tensor, pool: Tensor, k: Tensor, floors: tuple[Floor, ...] = ()) -> Tensor:
    """k (R,) tokens of each pool (R, W): floors first, then the highest ranks (R, W). The earlier token wins a tie.

    Exactly k: where fewer have a rank above -inf, others of the pool follow.
    """
    ranks = ranks.detach().float().masked_fill(~pool, -torch.inf)
    needed = torch.zeros_like(pool)
    for floor in floors:
        order = ordered(floor.group.neg(), needed, ranks)
        within = torch.empty_like(order).scatter_(1, order, place_in_run(floor.group.gather(1, order)))
        needed |= (within < floor.least.gather(1, floor.group)) & (ranks != 0) & (ranks > -torch.inf)
    ranks = torch.where(pool, ranks.clamp(min=torch.finfo(ranks.dtype).min), -torch.inf)
    order = ordered(needed, ranks) if floors else ordered(ranks)
    place = torch.arange(pool.shape[1], device=pool.device).expand_as(order)
    return pool & (torch.empty_like(order).scatter_(1, order, place) < k[:, None])


def ordered(*keys: Tensor) -> Tensor:
    """Indices (R, W) by keys (R, W) from the most significant to the least, descending; the earlier token wins."""
    order = keys[-1].argsort(dim=1, descending=True, stable=True)
    for key in keys[-2::-1]:
        order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    return order


def dense(values: Tensor, mask: Tensor) -> Tensor:
    """Numbers (R, W) int64 from 0 for the different values (R, W) in each row's mask, in ascending order."""
    order = ordered(mask, values.neg())
    value, inside = values.gather(1, order), mask.gather(1, order)
    begins = (value != value.roll(1, dims=1)) & inside
    begins[:, 0] = False
    number = torch.empty_like(order).scatter_(1, order, begins.long().cumsum(1))
    return number.masked_fill(~mask, 0)


def at(place: Tensor, stream: TokenStream) -> Pool:
    """The tokens of a stream at places (R, W) of the flattened stream."""
    real = place < stream.mask.numel()
    inside = place.clamp(max=stream.mask.numel() - 1)
    return Pool(real, stream.kind.flatten()[inside], stream.time.flatten()[inside])


def place_in_run(values: Tensor) -> Tensor:
    """The index of each entry (R, W) in its run of equal values."""
    begins = values != values.roll(1, dims=1)
    begins[:, 0] = True
    place = torch.arange(values.shape[1], device=values.device).expand_as(values)
    return place - torch.where(begins, place, 0).cummax(1).values
