"""A model on the meta device: sizes without weights, for plans. Known names need no download.

Sizes of Qwen2.5-Omni: transformers' own defaults (7B) and the published config.json of the 3B.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import sizes
from ..backbones.qwen_omni import QwenOmni
from ..checkpoints.encoding import encoder_keep_of, resolution_of, reuse_of
from ..checkpoints.loading import KNOWN, dtype_of, place_of, read_config
from ..checkpoints.sieve_io import read_sieve_options, sieve_folder, sieve_inside
from ..inputs.prompt import Tokenizer
from ..model import EchoingPixels
from ..options import AUTO, LoadOptions
from ..reducers.cs2 import Sieve, SieveOptions

VISION_WIDTH = 1280
MARKS = {"vision_start_token_id": 151652, "vision_end_token_id": 151653}
SIZES: dict[str, dict[str, Any]] = {
    KNOWN["qwen2.5-omni-3b"]: {
        "text_config": {
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
        },
        "vision_config": {"hidden_size": VISION_WIDTH, "out_hidden_size": 2048},
        "audio_config": {"output_dim": 2048},
    },
    KNOWN["qwen2.5-omni-7b"]: {"vision_config": {"hidden_size": VISION_WIDTH}},
}


class Words:
    """Replaces a tokenizer that is not on this machine: a mark, word, sign or line break is one token."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [0] * len(re.findall(r"<\|\w+\|>|\w+|\n|[^\w\s]", text))

    def decode(self, ids: list[int]) -> str:
        raise AssertionError(f"a model without weights generates nothing, yet {ids} are decoded")

    def get_added_vocab(self) -> dict[str, int]:
        return {}


@dataclass(frozen=True)
class Outline:
    """A model without weights, the device it is planned for, and whether it has a sieve of its own."""

    model: EchoingPixels
    device: torch.device
    own_sieve: bool


def outline(name: str, options: LoadOptions) -> Outline:
    """The model that `load` would return, without weights. A known name has the default sieve if none is given.

    ModelError as from `load`, but CUDA need not be present.
    """
    from transformers import AutoTokenizer, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    place = place_of(name)
    known = SIZES.get(place)
    config = read_config(name, place) if known is None else Qwen2_5OmniThinkerConfig(**known, **MARKS)
    tokenizer: Tokenizer = (
        AutoTokenizer.from_pretrained(place, trust_remote_code=False) if Path(place).is_dir() else Words()
    )
    folder = sieve_folder(place, options, weights=False)
    about = read_sieve_options(folder) if folder else sieve_inside(config)
    own = about is not None
    if about is None and known is not None:
        about = SieveOptions()
    cuda = torch.cuda.is_available() if options.device == AUTO else options.device != "cpu"
    device = torch.device("cpu" if not cuda else "cuda" if options.device == AUTO else options.device)
    dtype = dtype_of(config, device, options.dtype)
    with torch.device("meta"):
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(config).to(dtype)
        encoding = resolution_of(config, options), reuse_of(config, options), encoder_keep_of(config, options)
        backbone = QwenOmni(thinker, tokenizer, name, *encoding)
        sieve = None if about is None else Sieve(backbone, about).to(dtype)
    return Outline(EchoingPixels(backbone, sieve, options.concrete().quant), device, own)


def weight_bytes(model: EchoingPixels) -> int:
    """Bytes of all parameters as stored, with the decoder's linear layers under the model's quantization."""
    total = model.weight_bytes()
    assert isinstance(model.backbone, QwenOmni)
    for module in model.backbone.text.modules():
        if isinstance(module, nn.Linear):
            (rows, columns), value = module.weight.shape, module.weight.element_size()
            total += sizes.weight_bytes(rows, columns, model.quant, value) - rows * columns * value
    return total
