"""The name of the KV cache's argument in transformers' decoders: 5.24 renamed `past_key_values` to `cache`."""

from __future__ import annotations

from functools import cache
from inspect import signature


@cache
def kv_name() -> str:
    """The keyword under which masks, decoder layers and decoders take a KV cache."""
    from transformers.masking_utils import create_causal_mask

    return "cache" if "cache" in signature(create_causal_mask).parameters else "past_key_values"
