"""A checkpoint in the layout of the published Qwen2.5-Omni, with tiny weights: all parts, shards, legacy config keys.

`tests.support.checkpoint` writes the thinker alone; this one adds talker, token2wav and speakers, so that
transformers' own `Qwen2_5OmniForConditionalGeneration` reads the same folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniTalkerForConditionalGeneration, Qwen2_5OmniToken2WavModel

from echoingpixels.backbones.qwen_omni import QwenOmni
from tests.support import tinymodel
from tests.support.checkpoint import published

SHARDS = 3
HEAD, EMBEDDING = "thinker.lm_head.weight", "thinker.model.embed_tokens.weight"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TALKER: dict[str, Any] = {
    "model_type": "qwen2_5_omni_talker",
    "vocab_size": 64,
    "embedding_size": tinymodel.WIDTH,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rope_theta": 1_000_000.0,
    "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
    "tts_codec_start_token_id": 60,
    "tts_codec_end_token_id": 61,
    "tts_codec_pad_token_id": 62,
    "tts_codec_mask_token_id": 63,
}
TOKEN2WAV: dict[str, Any] = {
    "model_type": "qwen2_5_omni_token2wav",
    "dit_config": {
        "model_type": "qwen2_5_omni_dit",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
        "emb_dim": 16,
        "enc_emb_dim": 16,
        "enc_dim": 16,
        "enc_channels": [16, 16, 16, 16, 48],
        "enc_attention_channels": 8,
        "enc_se_channels": 8,
        "num_embeds": 64,
        "look_ahead_layers": [0],
        "look_backward_layers": [0],
    },
    "bigvgan_config": {
        "model_type": "qwen2_5_omni_bigvgan",
        "upsample_initial_channel": 32,
        "upsample_rates": [2, 2],
        "upsample_kernel_sizes": [4, 4],
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
    },
}


def write(folder: Path, on: QwenOmni, drop: str = "", **changes: dict[str, Any]) -> Path:
    """Write a whole checkpoint of `on` in bfloat16; without the weight `drop`. `changes` go into the parts of config.

    Keys of `changes` are `whole`, `thinker_config` and `text_config`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(on)
    config |= changes.get("whole", {})
    config["thinker_config"] |= changes.get("thinker_config", {})
    config["thinker_config"]["text_config"] |= changes.get("text_config", {})
    _json(folder / "config.json", config)
    _json(folder / "generation_config.json", {"_from_model_config": True, "transformers_version": "4.50.0.dev0"})
    on.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    torch.save(
        {"Chelsie": {"bos_token": 1, "cond": torch.zeros(1, 8), "ref_mel": torch.zeros(1, 4, 80)}},
        folder / "spk_dict.pt",
    )
    write_weights(folder, {name: value for name, value in weights_of(on).items() if name != drop})
    return folder


def weights_of(on: QwenOmni) -> dict[str, Tensor]:
    """All weights of a whole checkpoint under their published names, in bfloat16."""
    thinker = {published(name): value for name, value in on.thinker.state_dict().items()}
    return {name: value.to(torch.bfloat16, copy=True).contiguous() for name, value in (thinker | _speech()).items()}


def write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write weights into shards, with their index."""
    shards: list[dict[str, Tensor]] = [{} for _ in range(SHARDS)]
    for i, (name, value) in enumerate(sorted(weights.items())):
        shards[i % SHARDS][name] = value
    places = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{SHARDS:05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shard, file)
    size = sum(value.numel() * value.element_size() for value in weights.values())
    _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def replace_weights(folder: Path, thinker: Any) -> None:
    """Put the weights of a quantized thinker in place of the shards, named as transformers saves them."""
    for path in folder.glob("model*"):
        path.unlink()
    with tempfile.TemporaryDirectory() as saved:
        thinker.save_pretrained(saved)
        shutil.copy(Path(saved) / "model.safetensors", folder)


def as_hub(cache: Path, repository: str, folder: Path) -> None:
    """Lay `folder` out in `cache` as the hub's client keeps a downloaded repository."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    (place / "snapshots").mkdir()
    (place / "snapshots" / COMMIT).symlink_to(folder, target_is_directory=True)


def _config(on: QwenOmni) -> dict[str, Any]:
    """config.json as published: rope_theta and rope_scaling apart, torch_dtype, architectures of that time."""
    thinker = on.thinker.config.to_dict()
    rope = thinker["text_config"].pop("rope_parameters")
    thinker["text_config"] |= {
        "model_type": "qwen2_5_omni_text",
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"mrope_section": rope["mrope_section"], "rope_type": "default", "type": "default"},
    }
    for part in (thinker, thinker["text_config"], thinker["vision_config"], thinker["audio_config"]):
        for key in ("dtype", "transformers_version", "_name_or_path"):
            part.pop(key, None)
    thinker |= {"architectures": ["Qwen2OmniNaViTThinkerForConditionalGeneration"], "torch_dtype": "bfloat16"}
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": True,
        "enable_talker": True,
        "thinker_config": thinker,
        "talker_config": TALKER,
        "token2wav_config": TOKEN2WAV,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
    }


@cache
def _speech() -> dict[str, Tensor]:
    """The talker's and token2wav's weights."""
    torch.manual_seed(0)
    config = Qwen2_5OmniConfig(talker_config=TALKER, token2wav_config=TOKEN2WAV)
    parts = {
        "talker.": Qwen2_5OmniTalkerForConditionalGeneration(config.talker_config),
        "token2wav.": Qwen2_5OmniToken2WavModel(config.token2wav_config),
    }
    return {prefix + name: value for prefix, part in parts.items() for name, value in part.state_dict().items()}


def _json(path: Path, about: dict[str, Any]) -> None:
    path.write_text(json.dumps(about, indent=2))
