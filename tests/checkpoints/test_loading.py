"""From a name to a model that answers: folders, whole checkpoints, quantization, sieves; and saving them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints import loading
from echoingpixels.checkpoints.loading import KNOWN, check_sieve
from echoingpixels.errors import ModelError, OptionError
from echoingpixels.from_pretrained import load, save
from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions, LoadOptions
from tests.support import tinymodel

SHORT = GenerateOptions(max_new_tokens=4)
HUB_NAMES = {  # of a published checkpoint: Qwen2.5-Omni's own layout
    "model.language_model.": "thinker.model.",
    "model.visual.": "thinker.visual.",
    "model.audio_tower.": "thinker.audio_tower.",
    "lm_head.": "thinker.lm_head.",
}


@pytest.fixture(scope="module")
def model(tiny: str) -> EchoingPixels:
    return load(tiny, device="cpu")


@pytest.fixture
def copy(tiny: str, tmp_path: Path) -> Path:
    """The model's folder, to be damaged."""
    return Path(shutil.copytree(KNOWN.get(tiny, tiny), tmp_path / "copy"))


def thinker(model: EchoingPixels) -> Any:
    assert isinstance(model.backbone, QwenOmni)
    return model.backbone.thinker


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_small_model_on_a_cpu_is_float32_with_its_sieve(model: EchoingPixels) -> None:
    assert {p.dtype for p in model.backbone.parameters()} == {torch.float32}
    assert model.sieve is not None and model.sieve.compressor.ln.weight.dtype == torch.float32
    assert model.load_s > 0 and model.backbone.device.type == "cpu"


def test_what_is_saved_is_loaded(model: EchoingPixels, tmp_path: Path) -> None:
    save(model, str(tmp_path / "model"))
    again = load(str(tmp_path / "model"), device="cpu")
    assert same(thinker(again).state_dict(), thinker(model).state_dict())
    assert model.sieve is not None and again.sieve is not None
    assert same(again.sieve.state_dict(), model.sieve.state_dict())
    assert again.sieve.options == model.sieve.options
    for name in ("layout", "shape", "stop_ids", "resolution"):
        assert getattr(again.backbone, name) == getattr(model.backbone, name)
    asked = [one.ask(tinymodel.clip(2.0), "Who?", generate=SHORT).token_ids for one in (model, again)]
    assert asked[0] == asked[1]


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_quantized_model_is_not_saved(quant: str, tiny: str, tmp_path: Path) -> None:
    small = load(tiny, quant=quant, device="cpu")
    with pytest.raises(ModelError, match=f"is quantized \\({quant}\\)") as error:
        save(small, tmp_path / "model")
    assert 'quant="none"' in error.value.hint and not (tmp_path / "model").exists()


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_quantization_takes_the_decoders_layers_and_nothing_else(quant: str, tiny: str, model: EchoingPixels) -> None:
    import bitsandbytes

    kind = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}[quant]
    small = load(tiny, quant=quant, device="cpu")
    parts = thinker(small).model
    decoder = [module for module in parts.language_model.modules() if isinstance(module, nn.Linear)]
    assert len(decoder) == 7 * small.backbone.shape.layers
    assert all(isinstance(module, kind) for module in decoder)
    assert {module.weight.dtype for module in decoder} == {torch.uint8 if quant == "nf4" else torch.int8}
    assert small.sieve is not None
    for part in (parts.visual, parts.audio_tower, thinker(small).lm_head, small.sieve):
        assert not any(isinstance(module, kind) for module in part.modules())
        assert all(parameter.is_floating_point() for parameter in part.parameters())
    assert small.weight_bytes() < model.weight_bytes()


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_quantized_model_answers_nearly_as_the_whole_one(quant: str, tiny: str, model: EchoingPixels) -> None:
    small, clip = load(tiny, quant=quant, device="cpu"), tinymodel.clip(2.0)
    answer = small.ask(clip, "Who?", keep=0.2, generate=SHORT)
    assert small.quant == quant
    assert 1 <= len(answer.token_ids) <= SHORT.max_new_tokens
    hidden = []
    with torch.no_grad():
        for one in (model, small):
            stream = tinymodel.asked(one, clip, "Who?")
            hidden.append(one.backbone.hidden(stream)[0, -1].float())
    likeness = float(torch.cosine_similarity(hidden[0], hidden[1], dim=0))
    assert likeness > {"nf4": 0.8, "int8": 0.95}[quant]


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_quantized_models_sieve_is_the_saved_one(quant: str, tiny: str, model: EchoingPixels) -> None:
    small = load(tiny, quant=quant, device="cpu")
    assert small.sieve is not None and model.sieve is not None
    assert same(small.sieve.state_dict(), model.sieve.state_dict())


def test_a_whole_omni_checkpoint_as_published_loads_by_the_same_path(model: EchoingPixels, tmp_path: Path) -> None:
    weights = {_published(name): value.clone() for name, value in thinker(model).state_dict().items()}
    weights["talker.model.norm.weight"] = torch.zeros(3)
    weights["token2wav.code2wav_dit_model.norm.weight"] = torch.zeros(3)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = {"model_type": "qwen2_5_omni", "thinker_config": thinker(model).config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model.backbone.tokenizer.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    whole = load(str(tmp_path), device="cpu")
    assert same(thinker(whole).state_dict(), thinker(model).state_dict())
    assert (whole.backbone.layout, whole.sieve) == (model.backbone.layout, None)
    answers = [one.ask(tinymodel.clip(2.0), "Who?", reducer="full", generate=SHORT) for one in (whole, model)]
    assert answers[0].token_ids == answers[1].token_ids


def test_a_whole_omni_model_saved_by_transformers_loads_by_the_same_path(model: EchoingPixels, tmp_path: Path) -> None:
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    config = Qwen2_5OmniConfig(thinker_config=thinker(model).config.to_dict(), enable_audio_output=False)
    omni = Qwen2_5OmniForConditionalGeneration(config)
    omni.thinker.load_state_dict(thinker(model).state_dict())
    omni.save_pretrained(tmp_path)
    model.backbone.tokenizer.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    assert all(name.startswith("thinker.") for name in load_file(tmp_path / "model.safetensors"))
    assert same(thinker(load(str(tmp_path), device="cpu")).state_dict(), thinker(model).state_dict())


def _published(name: str) -> str:
    for ours, theirs in HUB_NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"{name} has no published name")


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_name(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("lm_head.weight"))
    del weights[name]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, such as lm_head\.weight"):
        load(str(copy))


def test_a_damaged_weight_file_is_one_error(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="could not be loaded"):
        load(str(copy))


def test_another_kind_of_model_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    other = {"model_type": "gpt2", "vocab_size": config["text_config"]["vocab_size"]}
    (copy / "config.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match="is a gpt2 model"):
        load(str(copy))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda about: about | {"layers": about["layers"] + 1},
        lambda about: about | {"layers": 99},
        lambda about: about | {"layers": 0},
    ],
    ids=["one layer more", "more layers than the model", "no layers"],
)
def test_a_sieve_that_does_not_fit_is_one_line(spoil: Any, copy: Path) -> None:
    path = copy / "sieve" / "sieve.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ModelError, match="does not fit") as error:
        load(str(copy))
    assert "\n" not in error.value.message


def test_a_sieve_of_another_width_does_not_fit(copy: Path) -> None:
    path = copy / "sieve" / "sieve.safetensors"
    save_file({name: value[:3].clone() for name, value in load_file(path).items()}, path)
    with pytest.raises(ModelError, match="does not fit"):
        load(str(copy))


@pytest.mark.parametrize(
    "text", ['{"layers": 2, "colour": "red"}', "[]", "no json", '{"form": "melted"}', '{"sections": [1, 2]}']
)
def test_a_sieve_file_that_is_none_is_refused(text: str, copy: Path) -> None:
    (copy / "sieve" / "sieve.json").write_text(text)
    with pytest.raises(ModelError):
        load(str(copy))


def test_a_sieve_from_elsewhere_is_used_when_given(copy: Path, tiny: str, tmp_path: Path) -> None:
    shutil.move(copy / "sieve", tmp_path / "elsewhere")
    assert load(str(copy)).sieve is None
    assert load(str(copy), sieve=str(tmp_path / "elsewhere")).sieve is not None


def test_another_sieve_of_the_model_is_used_by_its_name(copy: Path) -> None:
    shutil.copytree(copy / "sieve", copy / "sieve-other")
    file = copy / "sieve-other" / "sieve.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "tau": about["tau"] / 2}))
    taus = [load(str(copy), sieve=name).sieve.options.tau for name in (None, "other")]  # type: ignore[union-attr]
    assert taus == [about["tau"], about["tau"] / 2]


def test_a_missing_sieve_is_reported_before_weights_are_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_parts", None)
    shutil.rmtree(copy / "sieve")
    (copy / "model.safetensors").unlink()
    for name in (str(copy), "qwen2.5-omni-7b"):
        with pytest.raises(ModelError, match="no sieve weights") as error:
            check_sieve(name, LoadOptions())
        assert all(reducer in error.value.hint for reducer in ("full", "uniform", "random", "repeats"))


def test_pixels_of_a_frame_are_as_asked_else_the_models_own(tiny: str, model: EchoingPixels) -> None:
    assert model.backbone.resolution.video_max == thinker(model).config.max_pixels
    assert load(tiny, device="cpu", max_pixels=56 * 56).frame_size(480, 640)[0] <= 56


def test_an_unknown_option_of_load_fails_loudly(tiny: str) -> None:
    with pytest.raises(OptionError, match="colour"):
        load(tiny, colour="red")
    with pytest.raises(OptionError, match="int3"):
        load(tiny, quant="int3")
    assert replace(LoadOptions(), quant="nf4").quant == "nf4"
