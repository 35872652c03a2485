"""Sieves inside released EchoingPixels checkpoints: Qwen2.5-Omni's layout with the sieve's weights in it.

The config has the sieve's depth and keep ratio. It states a rotary split only if its `mrope_section` has four entries.
"""

from __future__ import annotations

import re
from typing import Any

from safetensors import SafetensorError

from ..backbones.qwen_omni import QwenOmni
from ..errors import ModelError
from ..inputs.positions import check_sections
from ..options import check_keep
from ..reducers.cs2 import Sieve, SieveOptions
from .hub import read_tensors, unloadable
from .sieve_io import DEPTH, KEEP

SECTIONS = (18, 18, 18, 10)  # [T, H, W, T], the published code's default, for a head size of 128
NAME = re.compile(r"(?:thinker\.)?model\.(?:bidir_encoder\.(layers\..+)|(compressor\..+))")


def released_options(config: Any) -> SieveOptions:
    """The options of the sieve inside a checkpoint, from the thinker's config; ModelError if one field is missing."""
    text = config.text_config
    layers, keep = (getattr(text, field, None) for field in (DEPTH, KEEP))
    if layers is None or keep is None:
        lacks, has = (DEPTH, KEEP) if layers is None else (KEEP, DEPTH)
        raise ModelError(f"The checkpoint's text_config has {has} and no {lacks}.", "Its sieve needs both.")
    stated = tuple((text.rope_parameters or {}).get("mrope_section") or ())
    sections = stated if len(stated) == len(SECTIONS) else SECTIONS
    return SieveOptions(layers=layers, form="fused", sections=sections, keep=check_keep(keep))


def load_released(backbone: QwenOmni, place: str, options: SieveOptions) -> Sieve:
    """Read the sieve from a checkpoint, and split the rotary channels; ModelError if it is not complete."""
    assert options.sections is not None
    backbone.set_sections(check_sections(options.sections, backbone.shape.head_size // 2), backbone.name)
    sieve = Sieve(backbone, options)
    try:
        sieve.load_state_dict(read_tensors(place, NAME))
    except (OSError, ValueError, SafetensorError) as error:
        raise unloadable(backbone.name, place, error) from error
    except RuntimeError as error:
        what = f"The sieve in {backbone.name} does not have the {options.layers} layers that its config names."
        raise ModelError(what, "Download or save it again.") from error
    return sieve.to(backbone.device, backbone.dtype).eval()
