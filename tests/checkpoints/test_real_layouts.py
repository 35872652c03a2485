"""Whole checkpoints in the published layout: the same logits and tokens as transformers' own model reads from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5OmniForConditionalGeneration

from echoingpixels.errors import ModelError
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.media.clip import Clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions
from tests.support import layouts, tinymodel
from tests.support.program import Program

SHORT = GenerateOptions(max_new_tokens=8)
BOTH = tinymodel.clip(4.0)
SEEN = tinymodel.clip(3.0, sound=False)
HEARD = replace(BOTH, frames=BOTH.frames[:0], times=np.zeros(0), source=replace(BOTH.source, kind="audio"))
ON = tinymodel.backbone(mlp=128)
CLIPS = {"video with sound": BOTH, "video": SEEN, "sound": HEARD}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write(tmp_path_factory.mktemp("omni"), ON)


@pytest.fixture(scope="module")
def ours(folder: Path) -> EchoingPixels:
    return load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return reference(folder)


def reference(folder: Path) -> Any:
    """The whole model as transformers reads it."""
    return Qwen2_5OmniForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def as_transformers(model: EchoingPixels, clip: Clip) -> dict[str, Any]:
    """The arguments of transformers' model for a question about a clip."""
    media = prepare_media(clip, model.backbone.resolution)
    inputs = model.prepare(media, "Who rings?")
    given: dict[str, Any] = {"input_ids": inputs.input_ids, "attention_mask": torch.ones_like(inputs.input_ids)}
    if media.patches is not None:
        given |= {"pixel_values_videos": media.patches, "video_grid_thw": torch.tensor([media.grid])}
        given |= {"video_second_per_grid": torch.tensor([1.0])}
    if media.mel is not None:
        there = torch.ones(1, media.mel.shape[1], dtype=torch.long)
        given |= {"input_features": media.mel[None], "feature_attention_mask": there}
    return given | {"use_audio_in_video": media.patches is not None and media.mel is not None}


@torch.no_grad()
def logits(model: EchoingPixels, clip: Clip) -> Tensor:
    """Logits (1, L, V) of a question about a clip."""
    backbone = model.backbone
    return backbone.logits(backbone.hidden(tinymodel.asked(model, clip, "Who rings?")))


@torch.no_grad()
def assert_same(model: EchoingPixels, omni: Any, clip: Clip) -> None:
    wanted = omni.thinker(**as_transformers(model, clip)).logits
    assert float((logits(model, clip) - wanted).abs().max()) == 0.0


def test_the_layout_is_the_published_one(folder: Path) -> None:
    files = {path.name for path in folder.iterdir()}
    shards = {f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)}
    assert {*shards, "model.safetensors.index.json", "spk_dict.pt", "generation_config.json"} <= files
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    parts = ("thinker.model.layers.0.", "thinker.visual.", "thinker.audio_tower.", "thinker.lm_head.", "talker.model.")
    for part in (*parts, "token2wav.code2wav_dit_model.", "token2wav.code2wav_bigvgan_model."):
        assert any(name.startswith(part) for name in names), part


@pytest.mark.parametrize("kind", CLIPS)
def test_logits_equal_those_of_transformers_bit_for_bit(kind: str, ours: EchoingPixels, theirs: Any) -> None:
    assert_same(ours, theirs, CLIPS[kind])


@pytest.mark.parametrize("kind", CLIPS)
def test_greedy_tokens_equal_those_of_transformers(kind: str, ours: EchoingPixels, theirs: Any) -> None:
    given = as_transformers(ours, CLIPS[kind])
    out = theirs.generate(**given, generation_mode="text", thinker_max_new_tokens=8, thinker_do_sample=False)
    wanted = out[0, given["input_ids"].shape[1] :].tolist()
    answer = ours.ask(CLIPS[kind], "Who rings?", reducer="full", generate=SHORT, evidence=False)
    assert list(answer.token_ids) == wanted and len(wanted) == 8


def test_the_older_spelling_of_the_rotary_split_loads(tmp_path: Path) -> None:
    scaling = {"mrope_section": tinymodel.PLAIN, "type": "default"}  # and no rope_type
    folder = layouts.write(tmp_path, ON, text_config={"rope_scaling": scaling})
    assert_same(load(str(folder), device="cpu"), reference(folder), BOTH)


@pytest.mark.parametrize("quant", ["none", "nf4", "int8"])
def test_it_loads_by_its_name_from_the_hubs_cache_without_a_network(
    quant: Any, folder: Path, ours: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    layouts.as_hub(tmp_path, "Qwen/Qwen2.5-Omni-3B", folder)
    for name in ("qwen2.5-omni-3b", "Qwen/Qwen2.5-Omni-3B"):
        model = load(name, device="cpu", quant=quant)
        if quant == "none":
            assert torch.equal(logits(model, BOTH), logits(ours, BOTH))
        else:
            last = [logits(one, BOTH)[0, -1] for one in (model, ours)]
            assert float(torch.cosine_similarity(*last, dim=0)) > 0.9


@pytest.mark.parametrize("parts", [("thinker_config",), ("thinker_config", "text_config")])
def test_a_tied_output_head_is_the_embedding(parts: tuple[str, ...], tmp_path: Path) -> None:
    changes = {part: {"tie_word_embeddings": True} for part in parts}  # transformers reads the thinker's
    folder = layouts.write(tmp_path, ON, layouts.HEAD, **changes)
    model = load(str(folder), device="cpu")
    thinker = model.backbone.thinker  # type: ignore[attr-defined]
    assert torch.equal(thinker.lm_head.weight, thinker.model.language_model.embed_tokens.weight)
    assert_same(model, reference(folder), BOTH)


def test_a_missing_output_head_is_refused_by_name(tmp_path: Path) -> None:
    folder = layouts.write(tmp_path, ON, layouts.HEAD)
    with pytest.raises(ModelError, match=r"lacks 1 weights, such as lm_head\.weight"):
        load(str(folder), device="cpu")


def test_the_end_of_text_ends_an_answer_and_is_never_printed(
    ours: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = tinymodel.mark("<|endoftext|>")
    assert end in ours.backbone.stop_ids
    steps = iter([ord("h"), ord("i"), end, ord("!")])
    head = ours.backbone.thinker.lm_head  # type: ignore[attr-defined]

    def scripted(hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(steps)), head.out_features).expand(*hidden.shape[:2], -1)

    monkeypatch.setattr(ours.backbone, "logits", scripted)
    answer = ours.ask(SEEN, "Who rings?", reducer="full", generate=SHORT, evidence=False)
    assert len(answer.token_ids) == 3 and "endoftext" not in answer.text and len(answer.text) == 2


@pytest.mark.parametrize("part", ["whole", "thinker_config"])
@pytest.mark.parametrize(("about", "package"), [(AWQ, "gptqmodel"), (GPTQ, "optimum")])
def test_a_quantized_checkpoint_without_its_package_is_one_error(
    about: dict[str, Any], package: str, part: str, film: Path, tmp_path: Path, ep: Program
) -> None:
    folder = layouts.write(tmp_path, ON, **{part: {"quantization_config": about}})
    done = ep("ask", film, "Who?", "--model", folder, "--device", "cpu")
    assert done.code == 1 and "internal error" not in done.err
    for part in (f"is already quantized ({about['quant_method']})", package, "--quant nf4"):
        assert part in done.err


@pytest.mark.parametrize("part", ["whole", "thinker_config"])
def test_an_unknown_quantization_is_one_error(part: str, tmp_path: Path) -> None:
    missing = "thinker.model.layers.0.mlp.up_proj.weight"
    folder = layouts.write(tmp_path, ON, missing, **{part: {"quantization_config": {"quant_method": "melted"}}})
    with pytest.raises(ModelError, match=r"is already quantized \(melted\)") as error:
        load(str(folder), device="cpu")
    assert "\n" not in error.value.message


@pytest.mark.parametrize("part", ["whole", "thinker_config"])
@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_checkpoint_quantized_by_bitsandbytes_loads_as_it_is(
    quant: str, part: str, folder: Path, tmp_path: Path
) -> None:
    made = load(str(folder), device="cpu", quant=quant)
    thinker = made.backbone.thinker  # type: ignore[attr-defined]
    about = thinker.config.quantization_config.to_dict()
    kept = layouts.write(tmp_path, ON, **{part: {"quantization_config": about}})
    layouts.replace_weights(kept, thinker)
    again = load(str(kept), device="cpu")
    assert torch.equal(logits(again, BOTH), logits(made, BOTH))
    with pytest.raises(ModelError, match=r"is already quantized \(bitsandbytes\)"):
        load(str(kept), device="cpu", quant="nf4")
