"""Floating-point operations of the decoder, a sieve and the encoders from their shapes: weights and attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import Shape


def vision_flops(encoder: Any, grid: tuple[int, int, int], new: Tensor | None = None) -> float:
    """The vision encoder over a grid (T, H, W) of patches, or over its `new` cells (Nv,) bool."""
    config, (steps, rows, columns) = encoder.config, grid
    patches, window = rows * columns, (config.window_size // config.patch_size) ** 2
    shares = [1.0] * steps if new is None else new.view(steps, -1).double().mean(1).tolist()  # of each step's cells
    total = sum(shares) * patches * (2 * _size(encoder.patch_embed) + 2 * _size(encoder.merger) / 4)
    for i, block in enumerate(encoder.blocks):
        around = patches if i in config.fullatt_block_indexes else min(patches, window)
        each = 2 * _size(block), 4 * around * config.hidden_size
        total += patches * sum(share * each[0] + share**2 * each[1] for share in shares)
    return total


def audio_flops(encoder: Any, frames: int, new: Tensor | None = None) -> float:
    """The audio encoder over mel frames, or over the share of their tokens that is `new` (Na,) bool."""
    config, places = encoder.config, frames / 2
    if new is not None and len(new):
        places *= float(new.double().mean())
    total: float = places * (2 * _size(encoder.layers) + 4 * len(encoder.layers) * config.n_window * config.d_model)
    return total + places * 2 * (2 * _size(encoder.conv1) + _size(encoder.conv2)) + places * _size(encoder.proj)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def layer_flops(shape: Shape, tokens: int, causal: bool, past: int = 0) -> float:
    """One decoder layer over `tokens` new tokens after `past` cached ones: two operations a multiply-add."""
    attention = shape.heads * shape.head_size
    weights = shape.width * (2 * attention + 2 * shape.kv_heads * shape.head_size) + 3 * shape.width * shape.mlp
    pairs = tokens * (past + (tokens + 1) / 2 if causal else tokens)
    return 2 * tokens * weights + 4 * pairs * attention


def sieve_flops(shape: Shape, tokens: int, layers: int) -> float:
    """A sieve's layers and score head over `tokens`."""
    return layers * layer_flops(shape, tokens, causal=False) + 2 * tokens * shape.width * (shape.width + 1)


def llm_flops(shape: Shape, kept: int, generated: int) -> float:
    """The decoder over `kept` prompt tokens and `generated` more."""
    prefill = shape.layers * layer_flops(shape, kept, causal=True)
    decode = sum(shape.layers * layer_flops(shape, 1, causal=True, past=kept + i) for i in range(max(0, generated - 1)))
    return prefill + decode + 2 * max(1, generated) * shape.width * shape.vocab
