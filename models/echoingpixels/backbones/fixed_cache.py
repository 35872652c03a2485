"""A KV cache of fixed length for decoding: all steps have one shape, so that a compiled step fits every answer.

The prompt is read with a cache that grows, without a mask; its entries are then copied into tensors that stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Shape
from .decoder import additive

LEAST = 256  # places of the shortest cache

Step = Callable[[Tensor, Tensor, Tensor | None, Any], Tensor]


def bucket(n: int, least: int = 1) -> int:
    """The next power of two from n on, at least `least`: the numbers of rows and of places that a cache can have."""
    return max(least, 1 << (n - 1).bit_length())


def places(tokens: int) -> int:
    """The places of a cache for that many tokens."""
    return bucket(tokens, LEAST)


@dataclass(frozen=True)
class Entries:
    """The keys and values of a layer, (B, KV, S, d) each."""

    keys: Tensor
    values: Tensor


class FixedCache:
    """Keys and values of R rows and S places a layer; `rows` of the R are in use."""

    def __init__(self, config: Any, shape: Shape, size: tuple[int, int], like: Tensor) -> None:
        from transformers import StaticCache

        self.size, self.rows = size, 0
        self.cache = StaticCache(config=config, max_cache_len=size[1])
        for layer in self.cache.layers:  # made there, its length need not be uploaded
            layer.cumulative_length = torch.zeros((), dtype=torch.long, device=like.device)
        self.cache.early_initialization(size[0], shape.kv_heads, shape.head_size, like.dtype, like.device)

    @property
    def where(self) -> tuple[torch.device, torch.dtype]:
        """The device and dtype of the entries: a model may be moved between two answers."""
        keys = self.cache.layers[0].keys
        return keys.device, keys.dtype

    @property
    def layers(self) -> list[Entries]:
        """The entries of each layer, of the rows in use."""
        return [Entries(layer.keys[: self.rows], layer.values[: self.rows]) for layer in self.cache.layers]

    def fill(self, grown: Any) -> None:
        """Copy all rows of a cache that grows, and empty it; 0 elsewhere."""
        for own, layer in zip(self.cache.layers, grown.layers, strict=True):
            self.rows, length = len(layer.keys), layer.keys.shape[2]
            own.keys.zero_()[: self.rows, :, :length] = layer.keys
            own.values.zero_()[: self.rows, :, :length] = layer.values
            own.cumulative_length.fill_(length)
            layer.keys = layer.values = None


class FixedCaches:
    """The caches of a decoder, and its compiled steps.

    The tensors of the last answer serve the next one of the same size: a CUDA graph is bound to their addresses.
    """

    def __init__(self, config: Any, shape: Shape, step: Step) -> None:
        self._config, self._shape, self._step = config, shape, step
        self._free: FixedCache | None = None
        self._program: Step | None = None  # the step, which compiles itself at the first call with each size

    def filled(self, grown: Any, tokens: int) -> FixedCache:
        """A cache for that many tokens in all, with the entries of one that grows, which it empties.

        While it is in use, another answer gets tensors of its own.
        """
        like = grown.layers[0].keys
        size = bucket(len(like)), places(tokens)
        made, self._free = self._free, None
        if made is None or (made.size, made.where) != (size, (like.device, like.dtype)):
            made = None  # freed before the next one is allocated
            made = FixedCache(self._config, self._shape, size, like)
        made.fill(grown)
        return made

    def give_back(self, cache: Any) -> None:
        """The answer that used a cache has ended; nothing where the cache grows."""
        if isinstance(cache, FixedCache):
            self._free = cache

    def step(self, cache: FixedCache, token: Tensor, position: Tensor, mask: Tensor, compiled: bool) -> Tensor:
        """The logits (B, 1, V) of one cached step, which runs on all R rows: see `Backbone.decode`."""
        (rows, length), used = cache.size, cache.rows
        unused = (0, 0, 0, rows - used)
        visible = F.pad(F.pad(mask, (0, length - mask.shape[1])), unused, value=True)
        added = additive(visible).to(cache.layers[0].keys.dtype)
        step = self._step if not compiled else self._program or self._compile(token.device)
        return step(F.pad(token, unused), F.pad(position, unused), added, cache.cache)[:used]

    def _compile(self, device: torch.device) -> Step:
        from .compiled import compiled

        self._program = compiled(self._step, device)
        return self._program
