"""KV caches, also of layers that differ in length, cached steps, and the MLP in parts, for transformers' layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as memo
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inputs.descent import Descent, descend
from ..inputs.token_stream import TokenStream
from .attention import last_attention


@memo
def kv_name() -> str:
    """The keyword under which masks, decoder layers and decoders take a KV cache: `cache` from transformers 5.24 on."""
    from transformers.masking_utils import create_causal_mask

    return "cache" if "cache" in signature(create_causal_mask).parameters else "past_key_values"


def additive(visible: Tensor) -> Tensor:
    """The mask for all queries from the keys that they see, (B, S) bool: float32 (B, 1, 1, S)."""
    visible = visible[:, None, None]
    return torch.zeros_like(visible, dtype=torch.float32).masked_fill(~visible, -torch.inf)


def join(joined: Any, caches: Sequence[Any], order: Tensor, empty: bool = True) -> Any:
    """Fill the empty cache `joined` with all rows (B,) of `caches`, left-padded, in `order`; empties those or not."""
    for i in range(len(caches[0].layers)):
        lengths = [part.get_seq_length(i) for part in caches]
        pads = [(0, 0, max(lengths) - length, 0) for length in lengths]
        layers = [part.layers[i] for part in caches]
        keys = torch.cat([F.pad(layer.keys, pad) for layer, pad in zip(layers, pads, strict=True)])[order]
        values = torch.cat([F.pad(layer.values, pad) for layer, pad in zip(layers, pads, strict=True)])[order]
        joined.update(keys, values, i)
        for layer in layers if empty else ():
            layer.keys = layer.values = None
    return joined


def cut(part: Any, cache: Any, row: int, first: int, last: int) -> Any:
    """Fill the empty cache `part` with a copy of one row of a cache: its places from `first` to before `last`."""
    for i, layer in enumerate(cache.layers):
        keys, values = (x[row : row + 1, :, first:last].clone() for x in (layer.keys, layer.values))
        part.update(keys, values, i)
    return part


def causal_mask(mask: Tensor, known: int, dtype: torch.dtype) -> Tensor:
    """The additive mask (B, 1, L - known, L) of a prompt with mask (B, L); the KV cache holds the first `known` places.

    Each of the other places attends to itself and to those before it that are no padding. Made here: transformers
    would wait for the device to decide on one.
    """
    place = torch.arange(mask.shape[1], device=mask.device)
    new = place[known:, None]
    visible = (mask[:, None] & (place <= new)) | (place == new)  # without any key, padding would be nan
    return torch.zeros(visible.shape, dtype=dtype, device=mask.device).masked_fill_(~visible, -torch.inf)[:, None]


def run_with_drops(text: Any, run_layers: Callable[..., Tensor], stream: TokenStream, cache: Any) -> Descent:
    """Run the decoder `text` over a stream with drops; see `Backbone.descend`. `run_layers`: the backbone's."""

    def run(part: TokenStream, first: int, last: int) -> Tensor:
        layers = text.layers[first:last]
        return run_layers(layers, part.embeds, part.positions, part.key_mask, cache) if layers else part.embeds

    end = descend(stream, len(text.layers), run, partial(last_attention, text, cache))
    return replace(end, hidden=text.norm(end.hidden[:, -1:]))


@dataclass(frozen=True)
class Uneven:
    """A KV cache that grows, whose layers differ in length because tokens were dropped between them.

    `padding`: (B,) int64, the places before a row's first token, by the first of the layers that share a length; empty
    for one row, which is never padded.
    """

    cache: Any
    padding: Mapping[int, Tensor]

    @classmethod
    def of(cls, cache: Any, read: Tensor, starts: Sequence[int]) -> Uneven:
        """From a filled cache, the number of layers that read each token, (B, L) int64, and the layers of drops."""
        layers = {0, *starts} if len(read) > 1 else ()
        return cls(cache, {i: cache.get_seq_length(i) - (read > i).sum(1) for i in layers})

    def step(self, text: Any, token: Tensor, position: Tensor) -> Tensor:
        """Run the decoder `text` over one new token (B, 1) at position (B, 1): normalised hidden states (B, 1, D)."""
        hidden = text.embed_tokens(token)
        rotary, mask = text.rotary_emb(hidden, position.expand(3, -1, -1)), None
        for i, layer in enumerate(text.layers):
            padding = self.padding.get(i)
            if padding is not None:
                place = torch.arange(self.cache.get_seq_length(i) + 1, device=token.device)
                mask = additive(place >= padding[:, None]).to(hidden.dtype)
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, **{kv_name(): self.cache})
        normed: Tensor = text.norm(hidden)
        return normed


@contextmanager
def checkpointed(layers: Iterable[Any], wanted: bool) -> Iterator[None]:
    """Inside, these layers keep only their inputs if that is wanted and a gradient is needed."""
    chosen = list(layers) if wanted and torch.is_grad_enabled() else []
    for layer in chosen:
        layer.gradient_checkpointing = True
    try:
        yield
    finally:
        for layer in chosen:
            layer.gradient_checkpointing = False


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
