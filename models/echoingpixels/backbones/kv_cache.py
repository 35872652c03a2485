"""KV caches of transformers: the name of their argument, the mask of a cached step, and several caches as one."""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@cache
def kv_name() -> str:
    """The keyword under which masks, decoder layers and decoders take a KV cache: `cache` from transformers 5.24 on."""
    from transformers.masking_utils import create_causal_mask

    return "cache" if "cache" in signature(create_causal_mask).parameters else "past_key_values"


def step_mask(mask: Tensor, new: int, cache: Any) -> Tensor:
    """What to add to the logits of a step's N `new` tokens: float32 (B, 1, N, S) for the S places of a cache.

    `mask` (B, so far + N) is False at padding. Places of the cache that are not written yet are hidden.
    """
    length = mask.shape[1]
    room = cache.get_mask_sizes(new, 0)[0] - length
    places = torch.arange(length + room, device=mask.device)
    seen = F.pad(mask, (0, room))[:, None, None] & (places <= places[length - new : length, None])  # (B, 1, N, S)
    return torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -torch.inf)


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
