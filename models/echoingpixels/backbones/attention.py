"""What some tokens pay to all others in a decoder's first layers, without a matrix of all pairs.

Only eager attention tells its weights, and it would write L x L of them. So the last tokens are a cached step of their
own, the only one under eager attention.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..stream import Stream
from .kv_cache import kv_name


def attention_of(text: Any, cache: Any, stream: Stream, last: int, layers: int) -> list[Tensor]:
    """What each row's last tokens pay to each token: float32 (B, H, last, L), one of each of the first `layers`.

    `text`: the decoder; `cache`: an empty one.
    """
    few = text.layers[:layers]
    assert len(few) == layers > 0, f"{layers} of {len(text.layers)} layers"
    weights: list[Tensor] = []
    _run(text, few, stream, slice(0, -last), cache)
    kernel = text.config._attn_implementation
    hooks = [layer.self_attn.register_forward_hook(lambda _, __, out: weights.append(out[1].float())) for layer in few]
    text.set_attn_implementation("eager")
    try:
        _run(text, few, stream, slice(-last, None), cache)
    finally:
        text.set_attn_implementation(kernel)
        for hook in hooks:
            hook.remove()
    return weights


def _run(text: Any, layers: Any, stream: Stream, part: slice, cache: Any) -> None:
    """Run decoder layers over a part of a stream, after what is in the cache; fills the cache."""
    from transformers.masking_utils import create_causal_mask

    embeds, seen = stream.embeds[:, part], stream.mask[:, : part.stop]
    rotary = text.rotary_emb(embeds, stream.positions[..., part])
    attention = create_causal_mask(config=text.config, inputs_embeds=embeds, attention_mask=seen, **{kv_name(): cache})
    for layer in layers:
        embeds = layer(embeds, attention_mask=attention, position_embeddings=rotary, **{kv_name(): cache})
