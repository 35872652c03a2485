"""LoRA on the decoder through PEFT: adapters put in place of its weights, and merged into them. Saves nothing."""

from __future__ import annotations

from typing import Any

from ..backbones.qwen_omni import QwenOmni
from ..errors import DataError
from .log import check_extra
from .recipe import Lora

ADAPTER = "lora_"  # in the names of PEFT's weights


def check_lora() -> None:
    """ModelError where PEFT is missing."""
    check_extra("peft", "LoRA")


def adapt(backbone: QwenOmni, lora: Lora, before: Any = None) -> Any:
    """Put adapters into the decoder's layers, or go on with those of `before`; they then learn alone.

    Returns what `merge` takes, and `save_sieve` as `lora`.
    """
    check_lora()
    from peft import LoraConfig, get_peft_model

    if before is not None:
        used = before.peft_config["default"]
        if (used.r, used.lora_alpha, set(used.target_modules)) != (lora.rank, lora.alpha, set(lora.targets)):
            hint = "Of a quantized model they are not merged between stages: give the same [stage.lora]."
            raise DataError("A stage has other LoRA than the one before it.", hint)
        for name, weight in backbone.text.named_parameters():
            weight.requires_grad_(ADAPTER in name)
        return before
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    try:
        return get_peft_model(backbone.text, config)
    except ValueError as error:  # no module has such a name
        hint = "Name linear layers of the decoder, such as q_proj, v_proj or down_proj."
        raise DataError(f"LoRA finds no module named {', '.join(lora.targets)}.", hint) from error


def merge(adapted: Any) -> None:
    """Add the adapters, if there are any, to the decoder's weights and take them out of it."""
    if adapted is not None:
        adapted.merge_and_unload()
