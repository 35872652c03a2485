"""Which weights a sieve was made for, so that it is not used with others. Knows nothing about files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..backbones.qwen_omni import QwenOmni
from .hub import on_hub

ROWS = 16  # of a matrix, which stand for all of it


@dataclass(frozen=True)
class Identity:
    """A decoder by name and by weights, as bfloat16 has them, so that neither folder nor precision matters.

    `weights`: digest of its norms and embeddings, which quantization leaves alone; None of one in float16, which has
    lost the smallest values. `layers`: digest of its linear layers; None in float16 and of a quantized one. What is
    None compares with nothing.
    """

    id: str
    weights: str | None
    layers: str | None = None

    def is_of(self, other: Identity) -> bool:
        """Whether both are the same decoder, as far as both can tell."""
        pairs = ((self.weights, other.weights), (self.layers, other.layers))
        return all(mine == theirs for mine, theirs in pairs if mine is not None and theirs is not None)


def identity_of(backbone: QwenOmni, id: str) -> Identity:
    """A loaded model's decoder; LoRA that is not merged is no part of it."""
    text = backbone.text
    norms = [norm.weight for layer in text.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    exact = backbone.dtype != torch.float16
    quantized = getattr(backbone.thinker, "is_quantized", False)
    linear = [part.weight for layer in text.layers for part in (layer.self_attn.q_proj, layer.mlp.down_proj)]
    return Identity(
        id=id if on_hub(id) else Path(id).name,
        weights=_digest([*norms, text.norm.weight, text.embed_tokens.weight]) if exact else None,
        layers=_digest(linear) if exact and not quantized else None,
    )


def encoders_mark(backbone: QwenOmni) -> str:
    """Digest of every weight of a loaded model's encoders as bfloat16, which changes with each training step."""
    model = backbone.thinker.model
    parts = [part.state_dict() for part in (model.visual, model.audio_tower)]
    return _digest((part[name] for part in parts for name in sorted(part)), rows=None)


def _digest(weights: Iterable[Tensor], rows: int | None = ROWS) -> str:
    """Of all weights, or of the first `rows` of each matrix."""
    digest = hashlib.sha256()
    for weight in weights:
        part = weight.detach()[:rows] if weight.ndim > 1 else weight.detach()
        digest.update(part.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
