"""The joint stream of text, video and audio tokens. Reducers make a Selection; only TokenStream.take applies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..options import check_keep
from ..report import TokenCounts
from .positions import IMAGE, KINDS, TEXT, VIDEO
from .row_size import RowSize

if TYPE_CHECKING:
    from .descent import Drop


@dataclass(frozen=True)
class KeptTimes:
    """Times of the tokens that the decoder reads, in s from the clip's start."""

    video: tuple[float, ...] = ()
    audio: tuple[float, ...] = ()
    image: tuple[float, ...] = ()

    @property
    def all(self) -> tuple[float, ...]:
        """Of all kinds."""
        return self.video + self.audio + self.image


@dataclass(frozen=True)
class TokenStream:
    """Embedded prompts, padded to one length, with the kind, time and grid cell of every token."""

    embeds: Tensor  # (B, L, D)
    positions: Tensor  # (3, B, L) int64: time, height, width
    kind: Tensor  # (B, L) int64, an index into KINDS; TEXT at padding
    time: Tensor  # (B, L) float32 s, nan for text
    cell: Tensor  # (B, L, 2) int64 row and column of a video token, else -1
    mask: Tensor  # (B, L) bool, False at padding
    next_position: Tensor  # (B,) int64, where decoding continues: one past the full prompt's largest position
    labels: Tensor | None = None  # (B, L) int64 answer ids, -100 elsewhere; only in training
    before: tuple[TokenCounts, ...] | None = None  # of each row's whole prompt; None: row_counts() before take()
    absent: tuple[int, ...] | None = None  # tokens of each row that its encoder dropped; None: none
    sizes: tuple[RowSize, ...] | None = None  # of each row, where the host knows them without waiting for the device
    question: Tensor | None = None  # (B, L) bool, the question's own words; None where they are not known
    saliency: Tensor | None = None  # (B, L) float32 of the encoders, 0 for text; None where it was not computed
    drops: tuple[Drop, ...] = ()  # the selection that follows inside the decoder, first layer first
    known: Any = None  # the decoder's KV cache of the first places, if it has read them
    fused: bool = False  # whether a sieve has replaced the embeddings by those of its own layers

    @property
    def pool(self) -> Tensor:
        """(B, L) bool: the audio, video and image tokens, which compete for one budget."""
        return self.mask & (self.kind != TEXT)

    def row_sizes(self) -> tuple[RowSize, ...]:
        """The size of each row. The host waits for the device where it does not know them."""
        return self.sizes or counted(self.pool, self.mask)

    @property
    def key_mask(self) -> Tensor | None:
        """`mask`, or None where no row has padding. The host waits as for `row_sizes`, but not for a single row."""
        rows, length = self.mask.shape  # one row is never padded
        return None if rows == 1 or min(row.total for row in self.row_sizes()) == length else self.mask

    @property
    def after_media(self) -> Tensor:
        """(B, L) bool: the text after a row's last clip: end marks, question and template, without training answers."""
        after = self.mask & (self.pool.flip(1).cumsum(1).flip(1) == 0)
        return after if self.labels is None else after & (self.labels == -100)

    @property
    def question_tokens(self) -> Tensor:
        """(B, L) bool: the tokens of the question itself; `after_media` in a row where they are unknown."""
        if self.question is None:
            return self.after_media
        return torch.where(self.question.any(1, keepdim=True), self.question, self.after_media)

    @property
    def vision(self) -> Tensor:
        """(B, L) bool: the video and image tokens."""
        return self.mask & ((self.kind == VIDEO) | (self.kind == IMAGE))

    def budget(self, keep: float) -> Tensor:
        """k of each row (B,): `budget` of the clips' tokens, with those that their encoder dropped."""
        return budget(self.pool, keep, self.absences)

    def budgets(self, keep: float) -> tuple[int, ...] | None:
        """The same where the host knows the rows' sizes."""
        if self.sizes is None:
            return None
        pairs = zip(self.sizes, self.absent or (0,) * len(self.sizes), strict=True)
        return tuple(row.kept(keep, absent) for row, absent in pairs)

    @property
    def absences(self) -> Tensor | None:
        """`absent` (B,) int64 on the device."""
        return None if self.absent is None else torch.tensor(self.absent).to(self.mask.device, non_blocking=True)

    @property
    def most_present(self) -> float:
        """The largest ratio of a row's audio and video tokens in the whole prompt to those that are in the stream."""
        if self.absent is None or self.before is None:
            return 1.0
        both = zip(self.before, self.absent, strict=True)
        return max(counts.pool / max(1, counts.pool - absent) for counts, absent in both)

    def row_counts(self) -> tuple[TokenCounts, ...]:
        """Numbers of tokens by kind, row by row. The host waits for the device once."""
        found = torch.stack([(self.mask & (self.kind == i)).sum(1) for i in range(len(KINDS))], dim=1)  # (B, kinds)
        return tuple(TokenCounts(**dict(zip(KINDS, row, strict=True))) for row in found.tolist())

    def kept_times(self) -> list[KeptTimes]:
        """Times of each row's video, audio and image tokens, in s from the clip's start."""
        mask, kind, time = self.mask.cpu(), self.kind.cpu(), self.time.cpu()
        of_kind = {name: mask & (kind == i) for i, name in enumerate(KINDS) if i != TEXT}
        return [
            KeptTimes(**{name: tuple(time[row, here[row]].tolist()) for name, here in of_kind.items()})
            for row in range(len(mask))
        ]

    def rows(self, rows: Sequence[int], longest: int, without: int = 0) -> TokenStream:
        """The given rows (R,), cut to their last `longest` tokens, which removes common padding.

        And of these, `without` the last ones.
        """
        index, sizes = torch.tensor(rows).to(self.mask.device, non_blocking=True), self.sizes

        def part(x: Tensor, dim: int = 0) -> Tensor:
            return x.index_select(dim, index).narrow(dim + 1, x.shape[dim + 1] - longest, longest - without)

        return TokenStream(
            embeds=part(self.embeds),
            positions=part(self.positions, 1),
            kind=part(self.kind),
            time=part(self.time),
            cell=part(self.cell),
            mask=part(self.mask),
            next_position=self.next_position[index],
            before=None if self.before is None else tuple(self.before[i] for i in rows),
            sizes=None if sizes is None else tuple(sizes[i] + RowSize(0, -without) for i in rows),
            labels=None if self.labels is None else part(self.labels),
            question=None if self.question is None else part(self.question),
            saliency=None if self.saliency is None else part(self.saliency),
            drops=self.drops,
            fused=self.fused,
        )

    def take(self, selection: Selection) -> TokenStream:
        """The selected tokens, in their order and at their positions; rows are padded on the left.

        The host waits for their number where it does not know the rows' sizes or `selection.kept`.
        """
        embeds = self.embeds if selection.fused is None else selection.fused
        if selection.gate is not None:
            embeds = embeds * selection.gate[..., None].to(embeds.dtype)
        if self.sizes is not None and selection.kept is not None:
            sizes = tuple(RowSize(kept, row.text) for kept, row in zip(selection.kept, self.sizes, strict=True))
        else:
            sizes = counted(selection.keep & self.pool, selection.keep & self.mask)
        index, mask = packed(selection.keep & self.mask, max(row.total for row in sizes))
        rows = torch.arange(index.shape[0], device=index.device)[:, None]  # (B, 1)
        return replace(
            self,
            embeds=embeds[rows, index] * mask[..., None],
            positions=torch.where(mask, self.positions[:, rows, index], 0),
            kind=torch.where(mask, self.kind[rows, index], TEXT),
            time=torch.where(mask, self.time[rows, index], torch.nan),
            cell=torch.where(mask[..., None], self.cell[rows, index], -1),
            mask=mask,
            labels=None if self.labels is None else torch.where(mask, self.labels[rows, index], -100),
            before=self.before or self.row_counts(),
            absent=None,
            sizes=sizes,
            question=None if self.question is None else mask & self.question[rows, index],
            saliency=None if self.saliency is None else mask * self.saliency[rows, index],
            drops=selection.drops,
            known=None,
            fused=self.fused or selection.fused is not None,
        )

    def followed(self, by: TokenStream) -> TokenStream:
        """The places of a stream (B, M) after those of this one, row by row: (B, L + M)."""

        pairs = None if self.sizes is None or by.sizes is None else zip(self.sizes, by.sizes, strict=True)

        def both(x: Tensor | None, y: Tensor | None, dim: int = 1) -> Any:
            return None if x is None or y is None else torch.cat([x, y], dim)

        return TokenStream(
            embeds=both(self.embeds, by.embeds),
            positions=both(self.positions, by.positions, 2),
            kind=both(self.kind, by.kind),
            time=both(self.time, by.time),
            cell=both(self.cell, by.cell),
            mask=both(self.mask, by.mask),
            next_position=by.next_position,
            sizes=None if pairs is None else tuple(one + other for one, other in pairs),
            labels=both(self.labels, by.labels),
            question=both(self.question, by.question),
            saliency=both(self.saliency, by.saliency),
            drops=by.drops,
            fused=self.fused or by.fused,
        )


@dataclass(frozen=True)
class Selection:
    """The tokens to keep, with their scores. `keep` is True for all text."""

    keep: Tensor  # (B, L) bool
    scores: Tensor | None = None  # (B, L) float32, meaningful inside the pool
    fused: Tensor | None = None  # (B, L, D) replaces the stream's embeds, or None
    gate: Tensor | None = None  # (B, L) factor on the kept embeddings that carries the gradient, or None
    drops: tuple[Drop, ...] = ()  # tokens of these that are dropped later, between the decoder's layers
    kept: tuple[int, ...] | None = None  # audio, video and image tokens of each row's `keep`, where the host knows them


def pad(streams: list[TokenStream]) -> TokenStream:
    """Join streams into one batch, padded on the left; a single one stays as it is."""
    if len(streams) == 1:
        return streams[0]
    longest = max(s.embeds.shape[1] for s in streams)

    def left(x: Tensor, value: float, dim: int = 1) -> Tensor:
        return F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (longest - x.shape[dim], 0), value=value)

    if len({s.labels is None for s in streams}) > 1:
        raise ValueError("some streams have labels and some have none")
    if len({s.drops for s in streams}) > 1:
        raise ValueError("streams drop tokens at different layers or by different rules")
    labels = [s.labels for s in streams if s.labels is not None]
    saliency = [s.saliency for s in streams if s.saliency is not None]
    before = [counts for s in streams for counts in s.before or ()]
    absent = [n for s in streams for n in s.absent or (0,) * len(s.mask)]
    sizes = [size for s in streams for size in s.sizes or ()]
    questions = [torch.zeros_like(s.mask) if s.question is None else s.question for s in streams]
    return TokenStream(
        embeds=torch.cat([left(s.embeds, 0.0) for s in streams]),
        positions=torch.cat([left(s.positions, 0, dim=2) for s in streams], dim=1),
        kind=torch.cat([left(s.kind, TEXT) for s in streams]),
        time=torch.cat([left(s.time, torch.nan) for s in streams]),
        cell=torch.cat([left(s.cell, -1) for s in streams]),
        mask=torch.cat([left(s.mask, False) for s in streams]),
        next_position=torch.cat([s.next_position for s in streams]),
        before=tuple(before) if all(s.before for s in streams) else None,
        absent=tuple(absent) if any(s.absent for s in streams) else None,
        sizes=tuple(sizes) if all(s.sizes for s in streams) else None,
        labels=torch.cat([left(x, -100) for x in labels]) if labels else None,
        question=torch.cat([left(x, False) for x in questions]),
        saliency=torch.cat([left(x, 0.0) for x in saliency]) if len(saliency) == len(streams) else None,
        drops=streams[0].drops,
    )


def budget(pool: Tensor, keep: float, absent: Tensor | None = None) -> Tensor:
    """k of each row (B,): ceil(n * keep) in double precision, at least 1, at most the row's pool (B, L).

    n: the pool's tokens, and `absent` (B,) more. Does not synchronize with the device.
    """
    n = pool.sum(1)  # (B,)
    whole = n if absent is None else n + absent
    return (whole.double() * check_keep(keep)).ceil().long().clamp(min=1).minimum(n)


def top_k(scores: Tensor, pool: Tensor, k: Tensor) -> Tensor:
    """The k (B,) highest scores (B, L) of each row's pool (B, L) as a bool mask; the earlier token wins a tie."""
    ranked = scores.detach().float().masked_fill(~pool, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(pool.shape[1], device=pool.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return pool & (rank < k[:, None])


def packed(keep: Tensor, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices (B, K) of the True entries of each row, ascending, right-aligned, and their mask (B, K).

    `longest`: K, the most of a row. The host waits for the device where it is None.
    """
    longest = int(keep.sum(1).max()) if longest is None else longest
    index = keep.int().argsort(dim=1, stable=True)[:, keep.shape[1] - longest :]
    return index, keep.gather(1, index)


def counted(pool: Tensor, mask: Tensor) -> tuple[RowSize, ...]:
    """The size of each row of a pool (B, L) and of all tokens (B, L) bool. The host waits for the device once."""
    found = torch.stack([pool.sum(1), mask.sum(1)], 1).tolist()
    return tuple(RowSize(kept, total - kept) for kept, total in found)


def entries(mask: Tensor, n: int | None) -> Tensor:
    """Indices (n,) of the True entries of a mask (L,), ascending. The host waits for the device where n is None."""
    return mask.nonzero()[:, 0] if n is None else mask.int().argsort(descending=True, stable=True)[:n]
