"""How a model's encoders run: the load options, and where they are auto the model's config."""

from __future__ import annotations

from typing import Any

from ..inputs.patches import Resolution
from ..options import LoadOptions, Reuse, check_reuse
from ..options.encoder_keep import EncoderKeep, read_encoder_keep

ENCODER_KEEP = "5x"  # without a setting of the model's own: all cells from a fifth of the tokens on


def resolution_of(config: Any, options: LoadOptions) -> Resolution:
    """The pixels of a frame: from the model's config, else Qwen2.5-Omni's; with the maximum of the options, if any."""
    own = getattr(config, "max_pixels", None)
    resolution = Resolution.plain(own) if own else Resolution()
    return resolution.limited(options.max_pixels) if options.max_pixels else resolution


def reuse_of(config: Any, options: LoadOptions) -> Reuse:
    """The reuse threshold: the option's, else the one in the model's config, else None."""
    own: Reuse = getattr(config, "reuse", None)
    return check_reuse(own) if isinstance(options.reuse, str) else options.reuse


def encoder_keep_of(config: Any, options: LoadOptions) -> EncoderKeep | None:
    """The cells that the vision encoder keeps: the option's, else those of the model's config, else ENCODER_KEEP."""
    wanted = options.encoder_keep
    if isinstance(wanted, str):
        wanted = read_encoder_keep(getattr(config, "encoder_keep", ENCODER_KEEP))
    return wanted.at(options.keep) if isinstance(wanted, EncoderKeep) else None
