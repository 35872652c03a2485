"""Sizes of a Qwen2.5-Omni thinker from its configuration, and their costs: floating-point operations and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..inputs.patches import MERGE
from ..inputs.positions import Layout
from ..inputs.prompt import Tokenizer
from .base import AudioShape, Shape, VisionShape
from .pruning import PruneStep

END_OF_TEXT = "<|endoftext|>"


def layout_of(config: Any) -> Layout:
    """The thinker's special tokens and its positions per second."""
    return Layout(
        video=config.video_token_id,
        audio=config.audio_token_id,
        image=config.image_token_id,
        vision_bos=config.vision_start_token_id,
        vision_eos=config.vision_end_token_id,
        audio_bos=config.audio_start_token_id,
        audio_eos=config.audio_end_token_id,
        positions_per_s=config.position_id_per_seconds,
        seconds_per_chunk=config.seconds_per_chunk,
    )


def shape_of(text: Any) -> Shape:
    """The decoder's sizes."""
    return Shape(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        mlp=text.intermediate_size,
        vocab=text.vocab_size,
    )


def stop_ids_of(eos: int | list[int] | None, tokenizer: Tokenizer) -> frozenset[int]:
    """The token ids that end an answer: the generation config's, the tokenizer's eos and pad, and `<|endoftext|>`.

    A published Qwen2.5-Omni names none in its thinker's generation config; Qwen's own list is 151645 and 151643.
    """
    named = [getattr(tokenizer, name, None) for name in ("eos_token_id", "pad_token_id")]
    ids = [*(eos if isinstance(eos, list) else [eos]), *named, tokenizer.get_added_vocab().get(END_OF_TEXT)]
    return frozenset(id for id in ids if id is not None)


def vision_shape_of(config: Any) -> VisionShape:
    """The vision encoder's sizes."""
    return VisionShape(config.hidden_size, config.hidden_size // config.num_heads, config.intermediate_size)


def audio_shape_of(config: Any) -> AudioShape:
    """The audio encoder's sizes."""
    return AudioShape(config.d_model, config.encoder_ffn_dim)


def vision_flops(
    encoder: Any, grid: tuple[int, int, int], new: Tensor | None = None, prune: Sequence[PruneStep] = ()
) -> float:
    """The vision encoder over a grid (T, H, W) of patches, or over its `new` cells (Nv,) bool; it may drop cells."""
    config, (steps, rows, columns) = encoder.config, grid
    patches, window = rows * columns, (config.window_size // config.patch_size) ** 2
    cells = patches // MERGE**2
    entered = [cells] * steps if new is None else new.view(steps, -1).sum(1).tolist()
    shares = [n / cells for n in entered]  # of each step's cells
    total = sum(shares) * patches * 2 * _size(encoder.patch_embed)
    for i, block in enumerate(encoder.blocks):
        for step in prune:
            if step.layers == i:
                total += sum(2 * (share * cells) ** 2 * config.hidden_size for share in shares)  # distances
                shares = [step.kept(n) / cells for n in entered]
        around = patches if i in config.fullatt_block_indexes else min(patches, window)
        products = 6 if i == len(encoder.blocks) - 1 else 4  # of the last layer's queries and keys twice, for saliency
        each = 2 * _size(block), products * around * config.hidden_size
        total += patches * sum(share * each[0] + share**2 * each[1] for share in shares)
    return total + sum(shares) * patches * 2 * _size(encoder.merger) / 4


def audio_flops(encoder: Any, frames: int, new: Tensor | None = None) -> float:
    """The audio encoder over mel frames, or over the share of their tokens that is `new` (Na,) bool."""
    config, places = encoder.config, frames / 2
    if new is not None and len(new):
        places *= float(new.double().mean())
    pairs = (4 * len(encoder.layers) + 2) * config.n_window * config.d_model  # 2: the last layer's, for saliency
    total: float = places * (2 * _size(encoder.layers) + pairs)
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


def llm_flops(shape: Shape, kept: int | Sequence[int], generated: int) -> float:
    """The decoder over `kept` prompt tokens, of each layer if they differ, and `generated` more."""
    layers = Counter([kept] * shape.layers if isinstance(kept, int) else kept)  # equal ones are computed once
    total = 2.0 * max(1, generated) * shape.width * shape.vocab
    for tokens, n in layers.items():
        decode = sum(layer_flops(shape, 1, causal=True, past=tokens + i) for i in range(max(0, generated - 1)))
        total += n * (layer_flops(shape, tokens, causal=True) + decode)
    return total


BLOCK = 64  # weights that share a scale in NF4
CODES = 16 * 4  # bytes of NF4's table of values, which every weight has
REPACK = 7.5  # bytes a weight, once, on a CPU with AVX512-BF16: through int32 and several of int8
SUMS = 16  # bytes a result of int8 on a CPU, the result itself included: int32 and float32, step by step
ONE_BY_ONE = 4  # tokens that NF4 on CUDA multiplies without writing the weights out


def weight_bytes(rows: int, columns: int, quant: str, value: int) -> int:
    """Bytes of one matrix of weights as stored; `value`: bytes of one weight that is not quantized."""
    n = rows * columns
    if quant == "nf4":
        return (n + 1) // 2 + 4 * -(-n // BLOCK) + CODES
    return n + 4 * rows if quant == "int8" else n * value


def stored_bytes(weight: Tensor) -> int:
    """Bytes of a loaded weight with its scales."""
    state = getattr(weight, "quant_state", None)
    scales = [getattr(weight, "SCB", None), getattr(state, "absmax", None), getattr(state, "code", None)]
    return sum(part.numel() * part.element_size() for part in (weight, *scales) if part is not None)


def product_bytes(rows: int, columns: int, tokens: int, quant: str, value: int, cuda: bool) -> float:
    """Temporary bytes of multiplying (tokens, columns) by such a matrix, beside both and the result.

    NF4 writes the matrix out; a CPU with AVX512-BF16 packs it at its first use instead. int8 takes the tokens as
    float16 and int8, and its sums as int32.
    """
    n = rows * columns
    if quant == "nf4":
        return REPACK * n if not cuda else n * value if tokens > ONE_BY_ONE else 0
    if quant == "int8":
        return tokens * (3 * columns + (4 if cuda else SUMS - value) * rows)
    return 0
