"""A sieve in a small folder of its own, with the decoder's LoRA if it was trained with one: found, loaded and saved.

A folder holds sieve.json (the sieve's options and the model it was made for), sieve.safetensors, and PEFT's adapter
files.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..backbones.qwen_omni import QwenOmni
from ..errors import ModelError, OptionError
from ..inputs.positions import check_sections
from ..options import NO_SIEVE, LoadOptions
from ..reducers.cs2 import Sieve, SieveOptions
from ..storage.folders import filling
from .fingerprint import Identity, identity_of
from .hub import on_hub, snapshot

SIEVE_WEIGHTS, SIEVE_CONFIG = "sieve.safetensors", "sieve.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
BASE = "base"  # in sieve.json, beside the options
DEPTH, KEEP = "av_refiner_layers", "compression_ratio"  # of a text_config whose checkpoint holds a sieve


def sieve_folder(place: str, options: LoadOptions, weights: bool = True) -> Path | None:
    """The sieve's folder: the folder or hub id in the options, else the model's own; None if it has none or is `none`.

    A model may have several, `sieve` and `sieve-NAME` beside its weights; the options name a folder, a hub id or NAME.
    From the hub, without `weights` only sieve.json is downloaded.
    """
    if options.sieve == NO_SIEVE:
        return None
    if options.sieve:
        named = Path(place) / f"sieve-{options.sieve}"
        if named.is_dir() or not on_hub(options.sieve):
            return named if named.is_dir() else Path(options.sieve)
        return snapshot(options.sieve, SIEVE_CONFIG, *((SIEVE_WEIGHTS, *ADAPTER) if weights else ()))
    beside = Path(place) / "sieve"
    return beside if beside.is_dir() else None


def sieve_inside(config: Any) -> SieveOptions | None:
    """The options of a sieve inside a checkpoint, as the thinker's config has them; None if it names none."""
    if all(getattr(config.text_config, field, None) is None for field in (DEPTH, KEEP)):
        return None
    from .released import released_options

    return released_options(config)


def read_sieve_options(folder: Path) -> SieveOptions:
    """The options in a sieve's folder; ModelError if it holds none."""
    return _read(folder)[0]


def _read(folder: Path) -> tuple[SieveOptions, Identity | None]:
    """A sieve's options, and the model it was made for if its folder names one."""
    try:
        about = json.loads((folder / SIEVE_CONFIG).read_text())
        base, sections = about.pop(BASE, None), about.get("sections")
        about.pop("auto", None)  # earlier versions wrote a calibration
        about["sections"] = None if sections is None else tuple(sections)
        return SieveOptions(**about), None if base is None else Identity(**base)
    except (OSError, ValueError, TypeError, AttributeError, OptionError) as error:
        raise _unusable(folder, error) from error


def load_sieve(backbone: QwenOmni, folder: Path) -> Sieve:
    """Load a sieve's folder onto a backbone: split the rotary channels as in training, and add its LoRA.

    The backbone keeps both, also for reducers without a sieve. ModelError if the sieve was made for another model, or
    the backbone has the split or LoRA of another sieve.
    """
    options, base = _read(folder)
    if backbone.changed_by:
        what = f"{backbone.name} has the rotary split or LoRA of the sieve in {backbone.changed_by}."
        raise ModelError(what, "Load the model again for another sieve.")
    try:
        weights = load_file(folder / SIEVE_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _unusable(folder, error) from error
    if options.layers > backbone.shape.layers:
        raise _misfit(folder, backbone, base)
    if base is not None and not base.is_of(identity_of(backbone, backbone.name)):
        what = f"The sieve in {folder} was made for {base.id}, and {backbone.name} has other weights."
        raise ModelError(what, "Use it with the model it was made for, or train one for this model.")
    if options.sections is not None:
        backbone.set_sections(check_sections(options.sections, backbone.shape.head_size // 2), str(folder))
    sieve = Sieve(backbone, options)
    try:
        sieve.load_state_dict(weights)
    except RuntimeError as error:
        raise _misfit(folder, backbone, base) from error
    _adapt(backbone, folder)
    return sieve.to(backbone.device, backbone.dtype).eval()


def _adapt(backbone: QwenOmni, folder: Path) -> None:
    """Add the folder's LoRA, if any, to the decoder: merged, unless the decoder is quantized."""
    if not (folder / ADAPTER[0]).exists():
        return
    hint = f"It needs {' and '.join(ADAPTER)} of a decoder like this one's."
    if not (folder / ADAPTER[1]).exists():  # PEFT would read a pickle, or ask the hub
        raise ModelError(f"The LoRA in {folder} lacks {ADAPTER[1]}.", hint)
    try:
        from peft import PeftModel
    except ImportError as error:
        install = "Install it with `pip install 'echoingpixels[train]'`."
        raise ModelError(f"The sieve in {folder} comes with LoRA, which needs the package peft.", install) from error
    try:
        adapted = PeftModel.from_pretrained(backbone.text, str(folder))
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"The LoRA in {folder} could not be loaded: {reason}", hint) from error
    if not getattr(backbone.thinker, "is_quantized", False):
        adapted.merge_and_unload()
    backbone.changed_by = str(folder)


def save_sieve(sieve: Sieve, folder: str | Path, backbone: QwenOmni, lora: Any = None) -> None:
    """Write a sieve, with its rotary split, and a decoder's LoRA in PEFT's format, to a folder that names the backbone.

    Also converts a sieve that was loaded from inside a released checkpoint.
    """
    folder = Path(folder)
    about = {**asdict(sieve.options), BASE: asdict(identity_of(backbone, backbone.name))}
    with filling(folder) as made:
        (made / SIEVE_CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        save_file({k: v.to(torch.bfloat16).contiguous() for k, v in sieve.state_dict().items()}, made / SIEVE_WEIGHTS)
        if lora is not None:
            lora.save_pretrained(str(made), save_embedding_layers=False)
    for name in ADAPTER if lora is None else ():  # of the replaced sieve
        (folder / name).unlink(missing_ok=True)


def _unusable(folder: Path, error: Exception) -> ModelError:
    reason = getattr(error, "strerror", None) or error
    return ModelError(f"{folder} holds no usable sieve: {reason}.", f"It needs {SIEVE_CONFIG} and {SIEVE_WEIGHTS}.")


def _misfit(folder: Path, backbone: QwenOmni, base: Identity | None) -> ModelError:
    made = f" It was made for {base.id}." if base else ""
    return ModelError(f"The sieve in {folder} does not fit {backbone.name}.{made}", "Use a sieve made for this model.")
