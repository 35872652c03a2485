"""The attention functions of this project's models, beside those of transformers, and which of them a device takes.

`VARLEN`: an encoder attends to all its windows in one call, by FlashAttention. `REPEATED`: keys and values are repeated
for their query heads, for GPUs whose linear-memory kernel takes no grouped heads.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .pruning import VARLEN

REPEATED = "ep_repeated_heads"
FLASH = (8, 0)  # the least compute capability of PyTorch's FlashAttention
HEAD_SIZES = range(8, 257, 8)  # that it takes


def choose_kernels(thinker: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Set the attention functions of a thinker's encoders and decoder by device and dtype; a CPU keeps SDPA."""
    if device.type != "cuda" or torch.version.hip is not None:
        return
    model = thinker.model
    if torch.cuda.get_device_capability(device) < FLASH:
        _register()
        model.language_model.set_attn_implementation(REPEATED)
    elif dtype in (torch.float16, torch.bfloat16):
        _register()
        vision, audio = model.visual.config, model.audio_tower.config
        for config, heads in ((vision, vision.num_heads), (audio, audio.encoder_attention_heads)):
            if getattr(config, "d_model", config.hidden_size) // heads in HEAD_SIZES:
                config._attn_implementation = VARLEN  # its public setter would look for a package of that name


def varlen(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    cu_seq_lens_k: Tensor,
    max_length_q: int,
    max_length_k: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside windows that follow one another: queries, keys and values (1, H, L, D) → (1, L, H, D).

    A window may be empty: the kernel then has nothing to do. Source: `torch.nn.attention.varlen` (PyTorch 2.10), with
    its own scale, D ** -0.5.
    """
    from torch.nn.attention import varlen as kernel

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (L, H, D)
    made = kernel.varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
    assert isinstance(made, Tensor), "a tuple only where auxiliary outputs are asked for"
    return made[None], None


def repeated(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """SDPA without grouped heads: queries (B, H, N, D), keys and values (B, H / G, L, D) → (B, N, H, D).

    One query: the heads of a group are G queries of one head, which copies nothing.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    groups, (rows, heads, n, size) = module.num_key_value_groups, query.shape
    plain = SimpleNamespace(is_causal=getattr(module, "is_causal", True))  # without the module's groups of heads
    if n == 1:
        packed = query.reshape(rows, heads // groups, groups, size)
        made, _ = sdpa_attention_forward(plain, packed, key, value, attention_mask, **{**options, "is_causal": False})
        return made.transpose(1, 2).reshape(rows, 1, heads, size), None
    attended: tuple[Tensor, None] = sdpa_attention_forward(
        plain, query, repeat_kv(key, groups), repeat_kv(value, groups), attention_mask, **options
    )
    return attended


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(VARLEN, varlen)
    AttentionInterface.register(REPEATED, repeated)
    AttentionMaskInterface.register(REPEATED, sdpa_mask)
