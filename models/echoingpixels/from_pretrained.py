"""From a model's name to a model that answers, and back to a folder."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .backbones.qwen_omni import QwenOmni
from .checkpoints.hub import ModelChoice
from .checkpoints.loading import device_of, load_parts, named, weights_of
from .checkpoints.sieve_io import save_sieve
from .errors import ModelError
from .memory_errors import guarded
from .model import EchoingPixels
from .options import AUTO, AskOptions, LoadOptions, split_keywords

if TYPE_CHECKING:
    from .inputs.prepare import Media


def load(name: str = "tiny", options: LoadOptions | None = None, **keywords: Any) -> EchoingPixels:
    """Load a model by known name, hub id or folder, or `auto`. Keyword options are those of LoadOptions.

    `auto` never downloads: it is the saved default, or the largest known model on this machine that fits, or tiny.
    OptionError for an unknown option; ModelError where the model cannot be found, quantized or placed on the device,
    or where its sieve does not fit; OutOfMemoryError where memory runs out.
    """
    (changed,) = split_keywords(keywords, LoadOptions)
    choice = resolve(name, replace(options or LoadOptions(), **changed), downloads=False)
    name, chosen, device = choice.name, choice.options, device_of(choice.options.device)
    load = partial(_load, name, chosen, device)
    return guarded(load, f"loading {name}", device, partial(_advise_load, name, chosen))


def resolve(name: str, options: LoadOptions, downloads: bool = True) -> ModelChoice:
    """The model and quantization that a name stands for; ModelError if it is unknown.

    `downloads`: whether `auto` may be a model that is not on this machine. Only `auto` needs the planner.
    """
    if name.lower() != AUTO:
        return named(name, options)
    from .planning import auto_model

    return auto_model.resolve(name, options, downloads)


def _advise_load(name: str, chosen: LoadOptions) -> tuple[str, ...]:
    """Models and quantizations that would fit. The planner is imported only if memory ran out."""
    from .planning.advice import for_load

    return for_load(name, chosen)


def _advise_answer(
    name: str, chosen: LoadOptions, media: Media | None, question: str, options: AskOptions
) -> tuple[str, ...]:
    """Options that would fit, for a question about a clip."""
    from .planning.advice import for_answer

    return for_answer(name, chosen, media, question, options)


def _load(name: str, chosen: LoadOptions, device: torch.device) -> EchoingPixels:
    began = time.perf_counter()
    backbone, sieve = load_parts(name, chosen, device)
    return EchoingPixels(
        backbone,
        sieve,
        chosen.quant,
        time.perf_counter() - began,
        encoders=weights_of(name, chosen).encoders,
        advise=partial(_advise_answer, name, chosen),
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
