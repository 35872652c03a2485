"""Sieves inside checkpoints of the published EchoingPixels code: Qwen2.5-Omni's layout with the sieve's weights in it.

Depth and keep ratio are in the checkpoint's config, the rotary split is not: it comes with the caller.
"""

from __future__ import annotations

import re
from typing import Any

from safetensors import SafetensorError

from ..backbones.qwen_omni import QwenOmni
from ..errors import ModelError, OptionError
from ..inputs.positions import check_sections
from ..options import check_keep
from ..reducers.cs2 import Sieve, SieveOptions
from .hub import unloadable
from .tensors import read_tensors

SECTIONS = (18, 18, 18, 10)  # [T, H, W, T], the published code's default
DEPTH, KEEP = "av_refiner_layers", "compression_ratio"
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
    backbone.set_sections(check_sections(options.sections, backbone.shape.head_size // 2), backbone.name)
    sieve = Sieve(backbone, options)
    try:
        sieve.load_state_dict(read_tensors(place, NAME))
    except (OSError, ValueError, SafetensorError) as error:
        raise unloadable(backbone.name, place, error) from error
    except RuntimeError as error:
        said = f"The sieve in {backbone.name} is not the one that its config names: {options.layers} layers."
        raise ModelError(said, "Download or save it again.") from error
    return sieve.to(backbone.device, backbone.dtype).eval()
