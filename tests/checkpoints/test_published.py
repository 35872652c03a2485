"""Whole checkpoints as released: with EchoingPixels' sieve inside, and a talker that is not read."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints.loading import check_sieve, read_config
from echoingpixels.checkpoints.released import SECTIONS, released_options
from echoingpixels.checkpoints.sieve_io import save_sieve
from echoingpixels.errors import ModelError, OptionError
from echoingpixels.from_pretrained import load
from echoingpixels.options import LoadOptions
from echoingpixels.planning.meta_model import outline
from echoingpixels.reducers.cs2 import Sieve
from tests.support import checkpoint, tinymodel

SPLIT = (2, 2, 2, 2)
FIELDS = {"av_refiner_layers": 2, "compression_ratio": 0.3}


@pytest.fixture(scope="module")
def sieve() -> Sieve:
    return tinymodel.sieve(tinymodel.backbone())


@pytest.fixture(scope="module")
def folder(sieve: Sieve, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that states its split, as its head size is not that of the published one."""
    return checkpoint.write(tmp_path_factory.mktemp("published"), tinymodel.backbone(), sieve, True, SPLIT, **FIELDS)


def test_a_published_sieve_is_read_out_of_its_checkpoint(folder: Path, sieve: Sieve) -> None:
    model = load(str(folder), device="cpu")
    assert model.sieve is not None and isinstance(model.backbone, QwenOmni)
    about = model.sieve.options
    assert (about.layers, about.keep, about.form, about.sections) == (2, 0.3, "fused", SPLIT)
    assert model.backbone.text.rotary_emb.mrope_section == list(SPLIT)
    assert all(torch.equal(value, sieve.state_dict()[name]) for name, value in model.sieve.state_dict().items())
    assert len(model.sieve.state_dict()) == len(sieve.state_dict())
    assert model.ask(tinymodel.clip(2.0), "Who?", keep=0.3).report.tokens.kept_ratio < 0.35


def test_only_the_thinkers_weights_are_read_into_memory(folder: Path) -> None:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    load(str(folder), device="cpu")  # imports and caches are no part of it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    load(str(folder), device="cpu")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    assert grown < checkpoint.TALKER / 10 and before < checkpoint.TALKER


def test_the_split_is_the_published_one_unless_the_config_states_another(sieve: Sieve, tmp_path: Path) -> None:
    plain = checkpoint.write(tmp_path, tinymodel.backbone(), sieve, **FIELDS)
    assert released_options(read_config("made", str(plain))).sections == SECTIONS == (18, 18, 18, 10)
    with pytest.raises(ModelError, match="four numbers that sum to 8"):
        load(str(plain), device="cpu")


def test_a_converted_sieve_states_its_split_and_is_loaded_with_it(folder: Path, tmp_path: Path) -> None:
    inside = load(str(folder), device="cpu")
    assert inside.sieve is not None and isinstance(inside.backbone, QwenOmni)
    save_sieve(inside.sieve, tmp_path / "converted", inside.backbone)
    assert json.loads((tmp_path / "converted/sieve.json").read_text())["sections"] == list(SPLIT)
    plain = checkpoint.write(tmp_path / "plain", tinymodel.backbone())
    model = load(str(plain), device="cpu", sieve=str(tmp_path / "converted"))
    assert model.sieve is not None and isinstance(model.backbone, QwenOmni)
    assert model.sieve.options == inside.sieve.options
    assert model.backbone.text.rotary_emb.mrope_section == list(SPLIT)


def test_a_sieve_inside_a_checkpoint_counts_as_the_models_own(folder: Path) -> None:
    options = LoadOptions()
    check_sieve(str(folder), options)
    assert outline(str(folder), options).own_sieve


def test_a_checkpoint_without_a_sieve_has_none(tmp_path: Path) -> None:
    plain = checkpoint.write(tmp_path, tinymodel.backbone())
    assert load(str(plain), device="cpu").sieve is None
    with pytest.raises(ModelError, match="no sieve weights"):
        check_sieve(str(plain), LoadOptions())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"compression_ratio": None}, "no compression_ratio"),
        ({"av_refiner_layers": None}, "no av_refiner_layers"),
        ({"av_refiner_layers": 3}, "the 3 layers that its config names"),
        ({"compression_ratio": 1.5}, "outside"),
    ],
)
def test_fields_that_do_not_describe_the_weights_are_reported(
    change: dict[str, Any], error: str, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    config["thinker_config"]["text_config"] |= change
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ModelError, OptionError), match=error):
        load(str(tmp_path), device="cpu")
