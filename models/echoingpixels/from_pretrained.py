"""From a model's name, or `auto`, to a loaded model, and back to a folder.

`auto` is the saved default, the largest model and quantization that fits the GPU, or tiny.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from platformdirs import user_config_path

from .backbones.qwen_omni import QwenOmni
from .checkpoints.hub import ModelChoice, local_folder
from .checkpoints.loading import KNOWN, LARGEST_FIRST, SMALLEST, device_of, load_parts, named, place_of, weights_of
from .checkpoints.sieve_io import save_sieve
from .errors import DataError, ModelError, guarded
from .model import EchoingPixels
from .options import AUTO, QUANTS, AskOptions, LoadOptions, Quant, split_keywords
from .storage.folders import write_text_atomically

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


def save(model: EchoingPixels, folder: str | Path) -> None:
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
        save_sieve(model.sieve, Path(folder) / "sieve", model.backbone)


AUTOMATIC: tuple[Quant, ...] = ("none", "nf4")  # int8 only on request: it casts activations to float16


def resolve(name: str, options: LoadOptions, downloads: bool = True) -> ModelChoice:
    """The model and quantization that a name stands for; ModelError for an unknown name.

    With `downloads`, `auto` may be a model that is not on this machine: the largest that fits, if no local one does.
    """
    if name.lower() != AUTO:
        return named(name, options)
    saved = saved_default()
    if saved is not None:
        quant: Quant = saved.quant if options.quant == AUTO else options.quant
        return named(saved.name, replace(options, quant=quant), f"the default saved in {saved.file}")
    device = device_of(options.device)
    if device.type != "cuda":
        return named(SMALLEST, options, "no CUDA device")
    from .planning.catalog import fitting

    local = [name for name in LARGEST_FIRST if local_folder(place_of(name)) is not None]
    absent = [name for name in LARGEST_FIRST if name not in local] if downloads else []
    for chosen, need in fitting(_candidates([*local, *absent], options.quant), options):
        reason = f"the largest that fits {device}"
        return replace(named(chosen, replace(options, quant=need.quant), reason), automatic=True)
    where = f"no Qwen2.5-Omni fits {device}" if downloads else f"no Qwen2.5-Omni that fits {device} is on this machine"
    return named(SMALLEST, options, where)


def _candidates(names: list[str], quant: str) -> Iterator[tuple[str, Quant]]:
    """Each model with the given quantization, or with those that `auto` may choose."""
    usable = [one for one in AUTOMATIC if one == "none" or find_spec("bitsandbytes") is not None]
    for name in names:
        for one in [one for one in QUANTS if one == quant] or usable:
            yield name, one


@dataclass(frozen=True)
class SavedDefault:
    """The model that `ep models default` saved, and its file."""

    name: str
    quant: Quant
    file: Path


def default_file() -> Path:
    """The file of the saved default, in the user's configuration folder."""
    return user_config_path("echoingpixels", appauthor=False) / "default_model.json"


def saved_default() -> SavedDefault | None:
    """The saved default; None without one. DataError for a file that cannot be read."""
    file = default_file()
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
        options = LoadOptions(quant=entry["quant"])
        return SavedDefault(str(entry["model"]), options.quant, file)  # type: ignore[arg-type]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = "Delete it, or save the default again: `ep models default NAME`."
        raise DataError(f"{file} holds no default model: {type(error).__name__}.", hint) from error


def save_default(name: str, quant: str = AUTO) -> Path | None:
    """Save the model that `auto` stands for; `auto` itself removes it. ModelError for an unknown name.

    Returns the file, None if it was removed.
    """
    file = default_file()
    if name.lower() == AUTO:
        file.unlink(missing_ok=True)
        return None
    place = place_of(name)
    if name.lower() not in KNOWN and Path(place).exists():
        name = str(Path(place).resolve())
    concrete = LoadOptions(quant=quant).concrete().quant  # type: ignore[arg-type]
    try:
        write_text_atomically(file, json.dumps({"model": name, "quant": concrete}) + "\n")
    except OSError as error:
        raise ModelError(f"{file} cannot be written: {error.strerror}.", "Check the folder.") from error
    return file
