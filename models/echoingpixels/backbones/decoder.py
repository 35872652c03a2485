"""KV caches, the mask of a cached step, and the MLP in parts, for transformers' decoder layers."""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@cache
def kv_name() -> str:
    """The keyword under which masks, decoder layers and decoders take a KV cache: `cache` from transformers 5.24 on."""
    from transformers.masking_utils import create_causal_mask

    return "cache" if "cache" in signature(create_causal_mask).parameters else "past_key_values"


def step_mask(mask: Tensor, cache: Any) -> Tensor:
    """The additive mask of a step's one new token: float32 (B, 1, 1, S) for the S places of a cache.

    `mask` (B, length so far + 1) is False at padding. Places of the cache that are not written yet are hidden.
    """
    room = cache.get_mask_sizes(1, 0)[0] - mask.shape[1]
    visible = F.pad(mask, (0, room))[:, None, None]  # (B, 1, 1, S)
    return torch.zeros_like(visible, dtype=torch.float32).masked_fill(~visible, -torch.inf)


def join(joined: Any, caches: list[Any], order: Tensor) -> Any:
    """Fill the empty cache `joined` with all rows (B,) of `caches`, left-padded, in `order`; empties those."""
    lengths = [part.get_seq_length() for part in caches]
    pads = [(0, 0, max(lengths) - length, 0) for length in lengths]
    for i in range(len(caches[0].layers)):
        layers = [part.layers[i] for part in caches]
        keys = torch.cat([F.pad(layer.keys, pad) for layer, pad in zip(layers, pads, strict=True)])[order]
        values = torch.cat([F.pad(layer.values, pad) for layer, pad in zip(layers, pads, strict=True)])[order]
        joined.update(keys, values, i)
        for layer in layers:
            layer.keys = layer.values = None
    return joined


TOKENS = 1024  # of a part: enough to keep a processor busy


class InParts(nn.Module):
    """An MLP whose weights keep their names, and which takes at most TOKENS tokens of (B, L, D) at once."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        for name, child in mlp.named_children():
            self.add_module(name, child)
        self._whole = [mlp]  # in a list it is no module of this one

    def forward(self, hidden: Tensor) -> Tensor:
        """The MLP's result in parts: it processes each token independently."""
        (whole,) = self._whole
        if hidden.shape[1] <= TOKENS:
            made: Tensor = whole(hidden)
            return made
        return torch.cat([whole(part) for part in torch.split(hidden, TOKENS, 1)], 1)
