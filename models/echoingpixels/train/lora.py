"""LoRA on the decoder through PEFT: adapters are put in place of its weights, and merged into them."""

from __future__ import annotations

from typing import Any

from ..backbones.qwen_omni import QwenOmni
from ..errors import DataError
from .recipe import Lora
from .refusal import listed
from .trainer import check_extra

ADAPTER = "lora_"  # in the names of PEFT's weights


def check_lora() -> None:
    """ModelError where PEFT is missing."""
    check_extra("peft", "LoRA")


def no_module(lora: Lora) -> DataError:
    """The error where no layer of the decoder has the name of a target."""
    hint = "Name linear layers of the decoder, such as q_proj, v_proj or down_proj."
    return DataError(f"LoRA finds no module named {listed(lora.targets)}.", hint)


def adapt(backbone: QwenOmni, lora: Lora, before: Any = None) -> Any:
    """Put adapters into the decoder's layers, or continue with the adapters `before`; only they learn.

    Returns the argument of `merge`, and of `save_sieve` as `lora`.
    """
    check_lora()
    from peft import LoraConfig, get_peft_model

    if before is not None:
        used = before.peft_config["default"]
        if (used.r, used.lora_alpha, set(used.target_modules)) != (lora.rank, lora.alpha, set(lora.targets)):
            hint = "Adapters of a quantized model are not merged between stages: give the same [stage.lora]."
            raise DataError("A stage has other LoRA settings than the stage before it.", hint)
        for name, weight in backbone.text.named_parameters():
            weight.requires_grad_(ADAPTER in name)
        return before
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    try:
        return get_peft_model(backbone.text, config)
    except ValueError as error:
        raise no_module(lora) from error


def merge(adapted: Any) -> None:
    """Add the adapters, if there are any, to the decoder's weights and remove them."""
    if adapted is not None:
        adapted.merge_and_unload()
