"""Checkpoints in the layouts that are published, made of the small random model. Nothing here is trained."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.reducers.cs2 import Sieve
from tests.support import tinymodel

NAMES = {  # ours, and a published checkpoint's: Qwen2.5-Omni's own layout
    "model.language_model.": "thinker.model.",
    "model.visual.": "thinker.visual.",
    "model.audio_tower.": "thinker.audio_tower.",
    "lm_head.": "thinker.lm_head.",
    "layers.": "thinker.model.bidir_encoder.layers.",
    "compressor.": "thinker.model.compressor.",
}
TALKER = 8 * 2**30  # bytes of a talker that is nothing but a hole in its file


def write(
    folder: Path,
    on: QwenOmni,
    sieve: Sieve | None = None,
    talker: bool = False,
    split: tuple[int, ...] | None = None,
    **fields: Any,
) -> Path:
    """A whole Qwen2.5-Omni checkpoint in shards, with an EchoingPixels sieve in it.

    `split`: the rotary split that its config states, None for the decoder's. `fields` are added to text_config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    thinker = on.thinker.config.to_dict()
    thinker["text_config"] |= fields
    if split is not None:
        thinker["text_config"]["rope_parameters"]["mrope_section"] = list(split)
    config = {"model_type": "qwen2_5_omni", "thinker_config": thinker}
    (folder / "config.json").write_text(json.dumps(config))
    tinymodel.tokenizer().save_pretrained(folder)
    weights = {**on.thinker.state_dict(), **(sieve.state_dict() if sieve else {})}
    named = {published(name): value.clone().contiguous() for name, value in weights.items()}
    shards: list[dict[str, Any]] = [{}, {}]  # the sieve's weights end up in both
    for i, (name, value) in enumerate(sorted(named.items())):
        shards[i % 2][name] = value
    places = {}
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"model-{i}.safetensors", {"format": "pt"})
        places |= dict.fromkeys(shard, f"model-{i}.safetensors")
    if talker:
        _hole(folder / "model-2.safetensors", "talker.model.embed_tokens.weight")
        places["talker.model.embed_tokens.weight"] = "model-2.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def published(name: str) -> str:
    for ours, theirs in NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"{name} has no published name")


def _hole(path: Path, name: str) -> None:
    """A weight file of zeros that takes no space on disk."""
    about = {name: {"dtype": "BF16", "shape": [TALKER // 2048, 1024], "data_offsets": [0, TALKER]}}
    header = json.dumps({"__metadata__": {"format": "pt"}, **about}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + TALKER)
