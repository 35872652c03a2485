"""A sieve's own small folder: saved, loaded, refused by another model, with LoRA, and from the hub's cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints import hub, loading
from echoingpixels.checkpoints import sieve_io as sievefolder
from echoingpixels.checkpoints.fingerprint import Identity, identity_of
from echoingpixels.checkpoints.sieve_io import load_sieve, read_sieve_options, save_sieve, sieve_folder
from echoingpixels.encoded_clip import CACHED
from echoingpixels.errors import ModelError
from echoingpixels.from_pretrained import load, save
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.model import EchoingPixels
from echoingpixels.options import LoadOptions
from echoingpixels.reducers.cs2 import Sieve
from echoingpixels.train.lora import adapt
from echoingpixels.train.recipe import Lora
from tests.support import tinymodel
from tests.support.program import Program

SPLIT = (3, 2, 2, 1)


def fresh() -> QwenOmni:
    """The random thinker, to be changed."""
    made: QwenOmni = tinymodel.backbone.__wrapped__()
    with torch.no_grad():  # as a file has it, so that saving loses nothing
        for weight in made.parameters():
            weight.copy_(weight.to(torch.bfloat16))
    return made


@pytest.fixture(scope="module")
def on() -> QwenOmni:
    return fresh()


@pytest.fixture(scope="module")
def base(on: QwenOmni, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, without a sieve."""
    folder = tmp_path_factory.mktemp("models") / "base"
    save(EchoingPixels(on), folder)
    return folder


@pytest.fixture(scope="module")
def folder(on: QwenOmni, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sieve's folder, made for that model."""
    sieve = tinymodel.sieve(on, sections=SPLIT, keep=0.35, form="extractive")
    with torch.no_grad():
        for weight in sieve.parameters():
            weight.copy_(weight.to(torch.bfloat16))
    place = tmp_path_factory.mktemp("sieves") / "mine"
    save_sieve(sieve, place, on)
    return place


def hidden(model: EchoingPixels) -> torch.Tensor:
    """The decoder's hidden states for a clip and a question."""
    media = prepare_media(tinymodel.clip(2.0), tinymodel.RESOLUTION)
    with torch.no_grad():
        stream = tinymodel.embed(model.backbone, model.prepare(media, "Who?"))
        return model.backbone.hidden(stream)[0].float()


def test_encoder_head_split_and_keep_come_back(folder: Path, base: Path, on: QwenOmni) -> None:
    model = load(str(base), device="cpu", sieve=str(folder))
    assert model.sieve is not None and isinstance(model.backbone, QwenOmni)
    about = model.sieve.options
    assert (about.layers, about.sections, about.keep, about.form) == (2, SPLIT, 0.35, "extractive")
    assert model.backbone.text.rotary_emb.mrope_section == list(SPLIT)
    made = tinymodel.sieve(on)
    for name, value in model.sieve.state_dict().items():
        assert torch.equal(value, made.state_dict()[name].to(torch.bfloat16).float()), name
    assert {path.name for path in folder.iterdir()} == {"sieve.json", "sieve.safetensors"}


def test_the_base_is_known_by_its_weights_wherever_they_lie_and_however_they_are_quantized(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(base, tmp_path / "another name")
    assert load(str(elsewhere), device="cpu", sieve=str(folder)).sieve is not None
    assert load(str(base), device="cpu", sieve=str(folder), quant="nf4").sieve is not None


@pytest.mark.parametrize("part", ["embed_tokens", "layers.3.input_layernorm", "layers.2.mlp.down_proj"])
def test_a_sieve_made_for_another_model_is_refused_by_name(part: str, folder: Path) -> None:
    other = fresh()
    other.name = "some/other-model"
    with torch.no_grad():
        other.text.get_submodule(part).weight.mul_(1.5)
    with pytest.raises(ModelError, match=r"was made for random, and some/other-model has other weights"):
        load_sieve(other, folder)


def test_a_folder_that_names_no_base_is_taken_at_its_word(folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    about = json.loads((old / "sieve.json").read_text())
    assert about.pop("base")["id"] == "random"
    (old / "sieve.json").write_text(json.dumps(about))
    other = fresh()
    with torch.no_grad():
        other.text.embed_tokens.weight.mul_(1.5)
    assert load_sieve(other, old).options == read_sieve_options(folder)
    (old / "sieve.json").write_text(json.dumps(about | {"base": {"colour": "red"}}))
    with pytest.raises(ModelError, match="no usable sieve"):
        load_sieve(other, old)


@pytest.mark.parametrize(
    "auto", [None, [[0.9, 0.2]], {"level": [0.0], "slope": [0.0], "curve": 0.0, "table": [[1, 1]]}]
)
def test_a_calibration_of_an_earlier_version_is_dropped(auto: Any, folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    about = json.loads((old / "sieve.json").read_text())
    (old / "sieve.json").write_text(json.dumps(about | {"auto": auto}))
    assert load_sieve(fresh(), old).options == read_sieve_options(folder)


def test_an_identity_says_hub_ids_in_full_and_of_folders_only_their_name(on: QwenOmni) -> None:
    one = identity_of(on, "Qwen/Qwen2.5-Omni-3B")
    assert (one.id, identity_of(on, "/home/me/models/base").id) == ("Qwen/Qwen2.5-Omni-3B", "base")
    assert one.is_of(replace(one, layers=None)) and not one.is_of(Identity(one.id, "else", one.layers))


@pytest.fixture
def tuned(folder: Path, tmp_path: Path) -> tuple[Path, EchoingPixels]:
    """A sieve's folder with LoRA, and the model with it."""
    on = fresh()
    sieve: Sieve = load_sieve(on, folder)
    lora = adapt(on, Lora(rank=2, targets=("q_proj", "v_proj", "down_proj")))
    with torch.no_grad():
        for name, weight in on.text.named_parameters():
            if "lora_B" in name:  # it begins at zero, where LoRA does nothing
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    save_sieve(sieve, tmp_path / "tuned", on, lora)
    return tmp_path / "tuned", EchoingPixels(on, sieve)


def test_lora_is_saved_with_its_sieve_and_comes_back_merged(
    tuned: tuple[Path, EchoingPixels], folder: Path, base: Path
) -> None:
    place, model = tuned
    again = load(str(base), device="cpu", sieve=str(place))
    plain = load(str(base), device="cpu", sieve=str(folder))
    assert (hidden(again) - hidden(model)).abs().max() < 1e-3 < (hidden(plain) - hidden(model)).abs().max()
    assert isinstance(again.backbone, QwenOmni)
    assert again.backbone.thinker.state_dict().keys() == plain.backbone.thinker.state_dict().keys()  # type: ignore[attr-defined]


def test_lora_on_a_quantized_model_stays_beside_it(tuned: tuple[Path, EchoingPixels], folder: Path, base: Path) -> None:
    place, model = tuned
    small, plain = (load(str(base), device="cpu", sieve=str(one), quant="int8") for one in (place, folder))
    assert isinstance(small.backbone, QwenOmni)
    assert any("lora_A" in name for name in small.backbone.thinker.state_dict())
    off = [float((hidden(one) - hidden(model)).abs().mean()) for one in (small, plain)]
    assert off[0] < off[1] / 2


def test_lora_that_does_not_fit_is_one_line(tuned: tuple[Path, EchoingPixels], base: Path) -> None:
    place, _ = tuned
    (place / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"The LoRA in .* could not be loaded") as error:
        load(str(base), device="cpu", sieve=str(place))
    assert "\n" not in error.value.message
    (place / "adapter_model.safetensors").rename(place / "adapter_model.bin")  # a pickle is not opened
    with pytest.raises(ModelError, match=r"The LoRA in .* lacks adapter_model\.safetensors"):
        load(str(base), device="cpu", sieve=str(place))


def test_a_second_sieve_on_a_changed_decoder_is_refused(
    tuned: tuple[Path, EchoingPixels], folder: Path, base: Path
) -> None:
    lora, quantized = (load(str(base), device="cpu", sieve=str(tuned[0]), quant=q).backbone for q in ("none", "int8"))
    split = load(str(base), device="cpu", sieve=str(folder)).backbone
    for one in (lora, quantized, split):
        assert isinstance(one, QwenOmni)
        before = {name: weight.clone() for name, weight in one.thinker.state_dict().items()}
        with pytest.raises(ModelError, match=r"has the rotary split or LoRA of the sieve in .*") as error:
            load_sieve(one, tuned[0])
        assert "Load the model again" in error.value.hint
        assert all(torch.equal(weight, before[name]) for name, weight in one.thinker.state_dict().items())


def test_a_reducer_without_the_sieve_says_that_the_decoder_is_not_the_base_models(
    tuned: tuple[Path, EchoingPixels], base: Path, tiny: str, film: Path, ep: Program, tmp_path: Path
) -> None:
    asked = ("ask", film, "Who?", "--device", "cpu", "--max-new-tokens", "2", "--json", "--model")
    full = json.loads(ep(*asked, base, "--sieve", tuned[0], "--reducer", "full").out)["notes"]
    assert len(full) == 1 and full[0].endswith("full is not the base model's.") and str(tuned[0]) in full[0]
    assert json.loads(ep(*asked, base, "--sieve", tuned[0]).out)["notes"] == [CACHED]
    assert "base model" not in str(json.loads(ep(*asked, tiny, "--reducer", "full").out)["notes"])


def test_a_sieve_is_written_whole_or_stays_as_it_was(
    tuned: tuple[Path, EchoingPixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, model = tuned
    assert isinstance(model.backbone, QwenOmni) and model.sieve is not None
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(sievefolder, "save_file", full)
        save_sieve(model.sieve, place, model.backbone)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    save_sieve(model.sieve, place, model.backbone)  # without LoRA, whose weights do not stay
    assert {"sieve.json", "sieve.safetensors"} == {path.name for path in place.iterdir()} - {"README.md"}


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`cache(id, folder)` puts a folder into the hub's cache as a download would; there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(id: str, folder: Path) -> None:
        repo = tmp_path / "hub" / f"models--{id.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("c" * 40)
        shutil.copytree(folder, repo / "snapshots" / ("c" * 40))

    return put


def test_what_the_hubs_cache_has_is_used_without_a_network(cache: Any, base: Path, folder: Path) -> None:
    cache("me/base", base)
    cache("me/sieve", folder)
    model = load("me/base", device="cpu", sieve="me/sieve")
    assert model.sieve is not None and model.sieve.options == read_sieve_options(folder)


def test_a_missing_model_is_reported_with_the_command_that_fetches_it(cache: Any, base: Path) -> None:
    with pytest.raises(ModelError, match=r"qwen2\.5-omni-3b could not be loaded") as error:
        load("qwen2.5-omni-3b")
    assert "`hf download Qwen/Qwen2.5-Omni-3B`" in error.value.hint and "\n" not in error.value.message
    with pytest.raises(ModelError, match=r"me/gone is neither a folder here nor in the hub's cache") as error:
        sieve_folder(str(base), LoadOptions(sieve="me/gone"))
    assert "`hf download me/gone`" in error.value.hint


class Missing:
    """A class of transformers of which nothing is in the cache, and the hub says that there is no such repository."""

    @staticmethod
    def from_pretrained(place: str, local_files_only: bool = False, **_: Any) -> Any:
        if local_files_only:
            raise OSError("not in the cache") from LocalEntryNotFoundError("not in the cache")
        about: Any = SimpleNamespace(headers={}, request=None)
        raise OSError("no model identifier") from RepositoryNotFoundError("404", response=about)


def test_a_mistyped_folder_is_no_download_problem(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"runs/new is neither a folder here nor in the hub's cache") as error:
        load("runs/new")
    assert error.value.hint.startswith("Check the path.") and "\n" not in error.value.message
    monkeypatch.setattr("transformers.AutoConfig", Missing)
    with pytest.raises(ModelError, match=r"^runs/new is neither a folder here nor a repository on the hub\.") as error:
        load("runs/new")
    assert error.value.hint.startswith("Check the path.")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_copy_from_the_hub_is_reported_without_asking_the_network(
    file: str, cache: Any, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    (copy / file).write_bytes(b"{ damaged")
    cache("me/base", copy)
    plain, asked = hub.fetch, []

    class Spy:
        def __init__(self, kind: Any) -> None:
            self.kind = kind

        def from_pretrained(self, place: str, **options: Any) -> Any:
            asked.append(options.get("local_files_only", False))
            return self.kind.from_pretrained(place, **options)

    monkeypatch.setattr(loading, "fetch", lambda kind, place, **options: plain(Spy(kind), place, **options))
    with pytest.raises(ModelError, match="The copy of me/base on this machine is damaged") as error:
        load("me/base", device="cpu")
    assert "--force-download" in error.value.hint and asked and all(asked)
