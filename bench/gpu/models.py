"""The models of a benchmark, one in memory at a time, and the attention functions that they run with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch

from bench.memory import freed
from bench.stack import random_model
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints.hub import local_folder
from echoingpixels.checkpoints.loading import new_sieve, place_of
from echoingpixels.checkpoints.quantization import bitsandbytes_config
from echoingpixels.from_pretrained import load
from echoingpixels.model import EchoingPixels
from echoingpixels.options import LoadOptions, Quant
from echoingpixels.options.encoder_keep import EncoderKeep
from echoingpixels.reducers.cs2 import SieveOptions

RANDOM = "random"
SIEVE = SieveOptions(4, "extractive")  # with random weights, where the model has none
PLAIN = "sdpa"


class Models:
    """Makes models of one name on a device, without reuse and without stop tokens, so that all answers are full length.

    `weights`: `random` for those of a known model's sizes, else the name or folder of a checkpoint.
    """

    def __init__(self, name: str, weights: str, device: torch.device) -> None:
        self.name, self.weights, self.device = name, weights, device
        self._made: tuple[str, str, EchoingPixels] | None = None

    def get(self, dtype: str, quant: Quant = "none") -> EchoingPixels:
        """The model in a dtype; the last one is freed if it is another."""
        if self._made is None or self._made[:2] != (dtype, quant):
            self._made = None
            freed(self.device)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._made = dtype, quant, self._make(dtype, quant)
        return self._made[2]

    def _make(self, dtype: str, quant: Quant) -> EchoingPixels:
        options = LoadOptions(device=str(self.device), dtype=dtype, reuse=None, encoder_keep=None, quant=quant)
        if self.weights == RANDOM:
            made = random_model(self.name, SIEVE, options)
            made = made if quant == "none" else quantized(made, quant)
        else:
            made = load(self.weights, options)
        on = made.backbone
        assert isinstance(on, QwenOmni)
        if made.sieve is None:
            made.sieve = new_sieve(on, SIEVE).to(on.device, on.dtype)
        on.stop_ids = frozenset()
        return made


def chosen_weights(name: str, weights: str | None) -> str:
    """The weights as given; by default the checkpoint of that name if it is on this machine, else random ones."""
    if weights is not None:
        return weights
    return RANDOM if local_folder(place_of(name)) is None else name


def quantized(model: EchoingPixels, quant: Quant) -> EchoingPixels:
    """The same weights with a quantized decoder, by transformers and bitsandbytes as from a file; the sieve stays."""
    on = model.backbone
    assert isinstance(on, QwenOmni)
    config = bitsandbytes_config(quant, on.dtype)
    options = {"quantization_config": config, "dtype": on.dtype, "device_map": {"": on.device}}
    thinker = type(on.thinker).from_pretrained(
        None, config=on.thinker.config, state_dict=on.thinker.state_dict(), **options
    )
    made = QwenOmni(thinker.eval(), on.tokenizer, on.name, on.resolution)
    return EchoingPixels(made, model.sieve, quant)


def with_encoder_keep(model: EchoingPixels, keep: EncoderKeep | None) -> EchoingPixels:
    """The same model with another encoder keep."""
    on = copy(model.backbone)
    on.encoder_keep = keep
    return EchoingPixels(on, model.sieve, model.quant)


def attending_parts(thinker: Any) -> dict[str, Any]:
    """The parts of a thinker with their own attention function."""
    model = thinker.model
    return {"vision": model.visual, "audio": model.audio_tower, "decoder": model.language_model}


def attention_of(thinker: Any) -> dict[str, str]:
    """The attention function of each part."""
    return {name: part.config._attn_implementation for name, part in attending_parts(thinker).items()}


@contextmanager
def attention(model: EchoingPixels, function: str) -> Iterator[None]:
    """Inside, all parts run with one attention function."""
    on = model.backbone
    assert isinstance(on, QwenOmni)
    before = attention_of(on.thinker)
    for part in attending_parts(on.thinker).values():
        part.config._attn_implementation = function
    try:
        yield
    finally:
        for name, part in attending_parts(on.thinker).items():
            part.config._attn_implementation = before[name]
