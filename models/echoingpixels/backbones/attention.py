"""Attention weights of chosen tokens in a decoder's first layers, block by block, without a matrix of all pairs.

Fused attention kernels return no weights. So queries and keys are computed here by the layers' own projections; the
layers run as everywhere else, and nothing of the shared model or its config is changed, not even for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..inputs.token_stream import TokenStream, packed

QUERIES_AT_ONCE = 32  # query tokens whose weights are in memory at once


def attention_of(
    text: Any, run: Callable[..., Tensor], stream: TokenStream, tokens: Tensor, layers: int
) -> Iterator[Iterator[Tensor]]:
    """For each of the first `layers`, blocks of the attention weights of `tokens` (B, L) bool to all tokens.

    A block is float32 (B, H, at most QUERIES_AT_ONCE, L), and 0 where a row has fewer tokens. `text`: the decoder;
    `run`: the backbone's `run_layers`. The last layer itself is not run, only its projections.
    """
    few = text.layers[:layers]
    assert len(few) == layers > 0, f"{layers} of {len(text.layers)} layers"
    places, real = packed(tokens)
    hidden = stream.embeds
    for i, layer in enumerate(few):
        if i > 0:
            hidden = run(few[i - 1 : i], hidden, stream.positions, stream.key_mask)
        yield _blocks(text, layer, hidden, stream, places, real)


def last_attention(text: Any, cache: Any, stream: TokenStream, index: int) -> Tensor:
    """Attention of each row's last token in layer `index`, mean over heads: (B, L) float32.

    The layer has read `stream` and left its keys in the KV cache `cache`.
    """
    attention, last = text.layers[index].self_attn, stream.embeds[:, -1:]
    cos, sin = text.rotary_emb(last, stream.positions[:, :, -1:])
    query = _heads(attention.q_proj(text.layers[index].input_layernorm(last)), attention, cos, sin)  # (B, H, 1, d)
    place = torch.full_like(stream.kind[:, -1:], stream.mask.shape[1] - 1)
    keys = cache.layers[index].keys.float()
    weights = _weights(query * attention.scaling, keys, stream.mask, place, torch.ones_like(place, dtype=torch.bool))
    return weights[:, :, 0].mean(1)


def _blocks(
    text: Any, layer: Any, hidden: Tensor, stream: TokenStream, places: Tensor, real: Tensor
) -> Iterator[Tensor]:
    """The blocks of one layer, which reads `hidden` (B, L, D); queries are at `places` (B, K), where `real` (B, K)."""
    attention, rows = layer.self_attn, torch.arange(len(places), device=places.device)[:, None]
    normed = layer.input_layernorm(hidden)
    cos, sin = text.rotary_emb(hidden, stream.positions)  # (B, L, d) each
    queries = _heads(attention.q_proj(normed[rows, places]), attention, cos[rows, places], sin[rows, places])
    keys = _heads(attention.k_proj(normed), attention, cos, sin)  # (B, KV, L, d)
    queries = queries * attention.scaling
    del normed, cos, sin, hidden
    for first in range(0, places.shape[1], QUERIES_AT_ONCE):
        part = slice(first, first + QUERIES_AT_ONCE)
        yield _weights(queries[:, :, part], keys, stream.mask, places[:, part], real[:, part])


def _heads(projected: Tensor, attention: Any, cos: Tensor, sin: Tensor) -> Tensor:
    """Projected tokens (B, K, heads · d), rotated: float32 (B, heads, K, d)."""
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb

    split = projected.view(*projected.shape[:2], -1, attention.head_dim).transpose(1, 2)  # (B, heads, K, d)
    rotated: Tensor = apply_rotary_pos_emb(split, split[:, :0], cos, sin)[0]  # it takes a pair: the other is empty
    return rotated.float()


def _weights(queries: Tensor, keys: Tensor, mask: Tensor, places: Tensor, real: Tensor) -> Tensor:
    """Softmax in float32, also under autocast: queries (B, H, K, d) and keys (B, KV, L, d) → (B, H, K, L)."""
    b, heads, k, _ = queries.shape
    grouped = queries.reshape(b, keys.shape[1], -1, queries.shape[-1])  # (B, KV, H / KV · K, d)
    with torch.autocast(queries.device.type, enabled=False):
        logits = (grouped @ keys.transpose(2, 3)).view(b, heads, k, -1)  # (B, H, K, L)
    place = torch.arange(mask.shape[1], device=mask.device)
    hidden = ((place > places[..., None]) | ~mask[:, None]) & real[..., None]  # a padding query still needs a key
    weights = logits.masked_fill_(hidden[:, None], -torch.inf).softmax(-1)
    return weights.masked_fill_(~real[:, None, :, None], 0.0)
