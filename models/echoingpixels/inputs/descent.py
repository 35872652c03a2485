"""Selection between a decoder's layers: where tokens are dropped, and the number of layers that read each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..report import TokenCounts
from .positions import KINDS
from .token_stream import Selection, TokenStream


class Choose(Protocol):
    """A rule that selects tokens; equal rules can share a batch."""

    def __call__(self, stream: TokenStream, attention: Tensor) -> Selection:
        """Select by attention (B, L) float32: of a row's last token in the layer before, mean over its heads."""

    def __hash__(self) -> int:
        """Equal rules have equal hashes."""


@dataclass(frozen=True)
class Drop:
    """Layers from `layer` on, counted from 0, read the selected tokens alone; those before keep their KV entries."""

    layer: int
    choose: Choose


@dataclass(frozen=True)
class Descent:
    """A stream after a decoder's layers."""

    hidden: Tensor  # (B, K, D), of the tokens that the last layer read
    read: Tensor  # (B, L) int64, the number of layers that read each token of the stream that entered; 0 at padding


Run = Callable[[TokenStream, int, int], Tensor]
"""Hidden states (B, L, D) of a stream after the layers from `first` to before `last`."""
Attend = Callable[[TokenStream, int], Tensor]
"""Attention (B, L) of a row's last token in a layer that has run; the stream has the layer's input."""


def descend(stream: TokenStream, layers: int, run: Run, attend: Attend) -> Descent:
    """Run a stream through a decoder of `layers` layers, with the stream's drops between them."""
    alive, read, first = stream.mask, torch.zeros_like(stream.kind), 0
    for drop in stream.drops:
        below = replace(stream, embeds=run(stream, first, drop.layer - 1))
        stream = replace(stream, embeds=run(below, drop.layer - 1, drop.layer))
        selection = drop.choose(stream, attend(below, drop.layer - 1))
        read = read + alive * (drop.layer - first)
        alive, first = _narrowed(alive, selection.keep & stream.mask), drop.layer
        stream = stream.take(selection)
    return Descent(run(stream, first, layers), read + alive * (layers - first))


def _narrowed(alive: Tensor, keep: Tensor) -> Tensor:
    """The tokens of `alive` (B, L) that stay: `keep` (B, K) has them one after the other, aligned on the right."""
    index = alive.int().argsort(dim=1, stable=True)[:, alive.shape[1] - keep.shape[1] :]
    return torch.zeros_like(alive).scatter(1, index, keep)


def counts_by_layer(stream: TokenStream, read: Tensor, layers: int) -> list[tuple[TokenCounts, ...]]:
    """Tokens that each layer reads, row by row, by `read` of `Descent`. The host waits for the device once."""
    reads = read[:, None] > torch.arange(layers, device=read.device)[:, None]  # (B, layers, L)
    found = torch.stack([(reads & (stream.kind == i)[:, None]).sum(2) for i in range(len(KINDS))], dim=2)
    return [tuple(TokenCounts(**dict(zip(KINDS, counts, strict=True))) for counts in row) for row in found.tolist()]
