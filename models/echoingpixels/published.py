"""Sieves inside checkpoints of the published EchoingPixels code: Qwen2.5-Omni's layout with the sieve's weights in it.

Depth and keep ratio are in the checkpoint's config, the rotary split is not: it comes with the caller.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .backbones.qwen_omni import QwenOmni
from .errors import ModelError, OptionError
from .hub import snapshot, unloadable
from .options import check_keep
from .positions import check_sections
from .sieve import Sieve, SieveOptions

SECTIONS = (18, 18, 18, 10)  # [T, H, W, T], the published code's default
DEPTH, KEEP = "av_refiner_layers", "compression_ratio"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NAME = re.compile(r"(?:thinker\.)?model\.(?:bidir_encoder\.(layers\..+)|(compressor\..+))")


def published_options(config: Any, sections: tuple[int, ...] | None, other: bool = False) -> SieveOptions | None:
    """What a thinker's config says of a sieve in its checkpoint; None where it says nothing or an`other` is used.

    OptionError where a split is given and there is no such sieve, ModelError for half of the fields.
    """
    layers, keep = (getattr(config.text_config, field, None) for field in (DEPTH, KEEP))
    if other or (layers is None and keep is None):
        if sections is not None:
            hint = "A sieve in a folder of its own knows its split."
            raise OptionError("A rotary split is for the sieve inside a checkpoint, and there is none in use.", hint)
        return None
    if layers is None or keep is None:
        lacks, has = (DEPTH, KEEP) if layers is None else (KEEP, DEPTH)
        raise ModelError(f"The checkpoint's text_config has {has} and no {lacks}.", "Its sieve needs both.")
    return SieveOptions(layers=layers, form="fused", sections=sections or SECTIONS, keep=check_keep(keep))


def load_published(backbone: QwenOmni, place: str, options: SieveOptions) -> Sieve:
    """Read the sieve out of a checkpoint, and split the rotary channels; ModelError where it is not whole."""
    assert options.sections is not None
    backbone.set_sections(check_sections(options.sections, backbone.shape.head_size // 2))
    sieve = Sieve(backbone, options)
    try:
        sieve.load_state_dict(_weights(place))
    except (OSError, ValueError, SafetensorError) as error:
        raise unloadable(backbone.name, place, error) from error
    except RuntimeError as error:
        said = f"The sieve in {backbone.name} is not the one that its config names: {options.layers} layers."
        raise ModelError(said, "Download or save it again.") from error
    return sieve.to(backbone.device, backbone.dtype).eval()


def _weights(place: str) -> dict[str, Tensor]:
    """The sieve's weights by our names; nothing else is read."""
    found: dict[str, Tensor] = {}
    for file, names in _files(place).items():
        with safe_open(file, "pt") as shard:
            for name in names or shard.keys():
                if (parts := NAME.fullmatch(name)) is not None:
                    found[parts[1] or parts[2]] = shard.get_tensor(name)
    return found


def _files(place: str) -> dict[Path, list[str]]:
    """The files that hold a sieve's weights, each with their names; no names: not known before it is opened."""
    folder = snapshot(place, "config.json", INDEX)
    if not (folder / INDEX).exists():
        return {snapshot(place, WEIGHTS) / WEIGHTS: []}
    files: dict[str, list[str]] = {}
    for name, file in json.loads((folder / INDEX).read_text())["weight_map"].items():
        if NAME.fullmatch(name):
            files.setdefault(file, []).append(name)
    return {snapshot(place, file) / file: names for file, names in files.items()}
