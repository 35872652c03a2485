"""From a model's name to a model that answers, and back to a folder."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .backbones.qwen_omni import QwenOmni
from .checkpoints.loading import device_of, load_parts
from .checkpoints.sieve_io import save_sieve
from .checkpoints.weights import weights_of
from .errors import ModelError
from .memory_errors import guarded
from .model import EchoingPixels
from .options import LoadOptions, split_keywords
from .planning import memory_advice
from .planning.auto_model import resolve


def load(name: str = "tiny", options: LoadOptions | None = None, **keywords: Any) -> EchoingPixels:
    """Load a model by known name, hub id or folder, or `auto`. Keyword options are those of LoadOptions.

    `auto` never downloads: it is the saved default, or the largest known model on this machine that fits, or tiny.
    OptionError for an unknown option; ModelError where the model cannot be found, quantized or placed on the device,
    or where its sieve does not fit; OutOfMemoryError where memory runs out.
    """
    (changed,) = split_keywords(keywords, LoadOptions)
    choice = resolve(name, replace(options or LoadOptions(), **changed), downloads=False)
    name, chosen, device = choice.name, choice.options, device_of(choice.options.device)
    advise = partial(memory_advice.for_load, name, chosen)
    return guarded(partial(_load, name, chosen, device), f"loading {name}", device, advise)


def _load(name: str, chosen: LoadOptions, device: torch.device) -> EchoingPixels:
    began = time.perf_counter()
    backbone, sieve = load_parts(name, chosen, device)
    return EchoingPixels(
        backbone,
        sieve,
        chosen.quant,
        time.perf_counter() - began,
        encoders=weights_of(name, chosen).encoders,
        advise=partial(memory_advice.for_answer, name, chosen),
    )


def save(model: EchoingPixels, folder: Path) -> None:
    """Write a model and its sieve in bfloat16, so that `load(folder)` reads it back. ModelError if it is quantized."""
    from transformers.utils import logging as hub_logging

    hub_logging.disable_progress_bar()
    assert isinstance(model.backbone, QwenOmni)
    thinker = model.backbone.thinker
    if getattr(thinker, "is_quantized", False):
        hint = 'Load it with quant="none" and save that; save_sieve writes its sieve alone.'
        raise ModelError(f"{model.backbone.name} is quantized ({model.quant}), and is saved in bfloat16 alone.", hint)
    thinker.save_pretrained(folder, state_dict={k: v.to(torch.bfloat16) for k, v in thinker.state_dict().items()})
    model.backbone.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    if model.sieve is not None:
        save_sieve(model.sieve, folder / "sieve", model.backbone)
