"""transformers' own Qwen2.5-Omni processor and positions for a clip of given sizes, with the real tokenizer.

Pixels and mel values are left out: grids come from transformers' `smart_resize`, mel frames from the mask of its
feature extractor. So a clip of 300 s takes no time, and torchvision is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from tests.support import realtokenizer

IDS = {"vision_start_token_id": 151_652, "vision_end_token_id": 151_653}  # as published; transformers' defaults differ
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
PLACES = {  # by what there is, as the published chat template writes it
    "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
    "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
}


@dataclass(frozen=True)
class Case:
    """A clip's sizes: frames of (height, width) at fps, samples of sound; and what is asked."""

    kind: str
    frames: int = 0
    fps: float = 2.0
    size: tuple[int, int] = (360, 640)
    samples: int = 0
    question: str = "What happens?"
    first: str = ""  # text before the clip
    turns: tuple[tuple[str, str], ...] = ()  # earlier questions and answers
    pixels: tuple[int, int] = (3136, 50_176)  # least and most of a frame


@dataclass(frozen=True)
class Prompt:
    """What transformers gives: ids (1, L), positions (3, 1, L), rope delta."""

    ids: Tensor
    positions: Tensor
    delta: int


class _Ears(WhisperFeatureExtractor):
    """Its padding, cut and mask; all mel values are zero."""

    def _torch_extract_fbank_features(self, waveform: Any, device: str = "cpu") -> Any:
        return np.zeros((len(waveform), self.feature_size, self.nb_max_frames), np.float32)


class _Eyes:
    """Stands in for the image or the video processor: gives the grid of patches (T, H, W) that is set."""

    merge_size, temporal_patch_size = 2, 2
    model_input_names = ("image_grid_thw", "video_grid_thw")
    unused_input_names = ()
    grid = (0, 0, 0)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def fetch_images(self, images: Any) -> Any:
        return images

    def __call__(self, pixels: Any, **options: Any) -> dict[str, Any]:
        return {f"{self.kind}_grid_thw": np.array([self.grid])}


class _Processor(Qwen2_5OmniProcessor):
    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)


@cache
def _processor() -> Any:
    return _Processor(_Eyes("image"), _Eyes("video"), _Ears(feature_size=128, chunk_length=300), realtokenizer.load())


@cache
def thinker() -> Any:
    """A thinker with the published token ids and no weights."""
    small = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4}
    config = Qwen2_5OmniThinkerConfig(
        **IDS,
        text_config={**small, "num_key_value_heads": 2},
        vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64},
        audio_config={"encoder_layers": 1, "d_model": 32, "encoder_attention_heads": 2, "output_dim": 64},
    )
    with torch.device("meta"):
        return Qwen2_5OmniThinkerForConditionalGeneration(config)


def prompt(case: Case) -> Prompt:
    """The prompt of a case as transformers writes it, and its positions."""
    processor, given = _processor(), dict[str, Any]()
    if case.frames:
        height, width = smart_resize(*case.size, 28, *case.pixels)
        eyes = processor.image_processor if case.kind == "image" else processor.video_processor
        eyes.grid = (-(-case.frames // 2), height // 14, width // 14)
        pixels = np.zeros((3, 28, 28), np.uint8)
        given |= {"images": [pixels]} if case.kind == "image" else {"videos": [pixels[None]]}
    if case.samples:
        given["audio"] = [np.zeros(case.samples, np.float32)]
    together = case.kind == "video" and case.samples > 0
    if together:
        given |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    end = "<|im_end|>\n<|im_start|>assistant\n"
    earlier = "".join(f"{asked}{end}{answer}<|im_end|>\n<|im_start|>user\n" for asked, answer in case.turns)
    text = f"{SYSTEM}{case.first}{PLACES[case.kind]}{earlier}{case.question}{end}"
    out = processor(text=[text], videos_kwargs={"fps": case.fps}, **given)
    ids, mel, grids = torch.tensor(out["input_ids"]), out.get("feature_attention_mask"), {}
    for kind in ("image_grid_thw", "video_grid_thw"):
        grids[kind] = torch.tensor(out[kind]) if kind in out else None
    positions, delta = thinker().get_rope_index(
        ids,
        **grids,
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=together,
        audio_seqlens=None if mel is None else torch.tensor(mel).sum(-1),
        second_per_grids=torch.tensor(out.get("video_second_per_grid", [])),
    )
    return Prompt(ids, positions, int(delta))
