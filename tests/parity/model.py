"""The recorded thinker and its sieve in our classes. Knows the published names of weights, nothing about cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.patches import Resolution
from echoingpixels.inputs.positions import check_sections
from echoingpixels.reducers.cs2 import Sieve, SieveOptions
from tests.parity.tally import FixtureError, Recorded

ENCODER, SELECTOR = "model.bidir_encoder.", "model.compressor."
NAMES = ("architectures", "model_type", "torch_dtype", "dtype")  # of the published class, not of the one built here


class NoTokenizer:
    """The fixtures hold token ids; asking for more is a mistake."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        raise AssertionError(f"the reference format has no tokenizer, asked to encode {text!r}")

    def decode(self, token_ids: list[int]) -> str:
        raise AssertionError(f"the reference format has no tokenizer, asked to decode {token_ids}")

    def get_added_vocab(self) -> dict[str, int]:
        return {}


class RecordedModel:
    """The thinker of a reference folder in float32, and sieves made from its weights."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        config_path = folder / manifest.get("config_file", "config.json")
        if not config_path.is_file():
            raise FixtureError(f"{config_path} is missing")
        config = json.loads(config_path.read_text())
        rates = {
            "positions_per_s": config.pop("position_id_per_seconds", 25),
            "seconds_per_chunk": config.pop("seconds_per_chunk", 2),  # transformers 5 takes whole numbers only
        }
        parts = ("text_config", "vision_config", "audio_config")
        for part in (config, *(config[name] for name in parts)):
            for name in NAMES:
                part.pop(name, None)
        self.weights = {k: v.float() for k, v in _weights(folder, manifest).items()}
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**config)).float().eval()
        _load(thinker, self.weights)
        self.merge = thinker.config.vision_config.spatial_merge_size
        self.backbone = QwenOmni(thinker, NoTokenizer(), "recorded", Resolution())
        self.backbone.layout = replace(self.backbone.layout, **rates)

    def sieve(self, sections: list[int], layers: int, copied: bool) -> Sieve:
        """A sieve with the recorded weights; `copied` leaves its encoder as copies of the decoder's first layers."""
        self.backbone.set_sections(check_sections(sections, self.backbone.shape.head_size // 2))
        sieve = Sieve(self.backbone, SieveOptions(layers=layers, sections=tuple(sections)))
        wanted = sieve.state_dict()
        for name, weight in self.weights.items():
            ours = name.removeprefix(ENCODER if name.startswith(ENCODER) else "model.")
            if name.startswith(SELECTOR) or (ours in wanted and name.startswith(ENCODER) and not copied):
                wanted[ours] = weight
        recorded = {name.split(".")[3] for name in self.weights if name.startswith(ENCODER)}
        if not copied and len(recorded) < layers:
            raise FixtureError(f"a variant has {layers} encoder layers, the weights hold {len(recorded)}")
        sieve.load_state_dict(wanted)
        return sieve

    def parameter(self, name: str, sieve: Sieve) -> nn.Parameter | None:
        """Our parameter that a published name stands for."""
        own = dict(sieve.named_parameters())
        if name.startswith((ENCODER, SELECTOR)):
            return own.get(name.removeprefix(ENCODER).removeprefix("model."))
        return dict(self.backbone.thinker.named_parameters()).get(_here(name))


def _weights(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    return Recorded(folder / manifest.get("weights_file", "weights.safetensors")).tensors


def _here(name: str) -> str:
    """A published weight's name in transformers 5."""
    if name.startswith("model."):
        return "model.language_model." + name.removeprefix("model.")
    return name if name.startswith("lm_head.") else "model." + name


def _load(thinker: Any, weights: dict[str, Tensor]) -> None:
    state = {_here(k): v for k, v in weights.items() if not k.startswith((ENCODER, SELECTOR))}
    missing, unexpected = thinker.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if thinker.config.text_config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise FixtureError(f"weights do not fit the config: unexpected {unexpected[:3]}, missing {missing[:3]}")
    if missing:
        thinker.lm_head.weight = thinker.model.language_model.embed_tokens.weight
