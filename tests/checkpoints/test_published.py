"""Whole checkpoints as published: EchoingPixels' sieve inside them, and a talker that nobody reads."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints.loading import check_sieve, read_calibration, read_config
from echoingpixels.checkpoints.released import SECTIONS, published_options
from echoingpixels.errors import ModelError, OptionError
from echoingpixels.evaluation.calibrate import sieve_to_write
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
    return checkpoint.write(tmp_path_factory.mktemp("published"), tinymodel.backbone(), sieve, True, **FIELDS)


def test_a_published_sieve_is_read_out_of_its_checkpoint(folder: Path, sieve: Sieve) -> None:
    model = load(str(folder), device="cpu", sections=SPLIT)
    assert model.sieve is not None and isinstance(model.backbone, QwenOmni)
    said = model.sieve.options
    assert (said.layers, said.keep, said.form, said.sections) == (2, 0.3, "fused", SPLIT)
    assert model.backbone.text.rotary_emb.mrope_section == list(SPLIT)
    assert all(torch.equal(value, sieve.state_dict()[name]) for name, value in model.sieve.state_dict().items())
    assert len(model.sieve.state_dict()) == len(sieve.state_dict())
    assert model.ask(tinymodel.clip(2.0), "Who?", keep=0.3).report.tokens.kept_ratio < 0.35


def test_only_the_thinkers_weights_are_read_into_memory(folder: Path) -> None:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    load(str(folder), device="cpu", sections=SPLIT)  # imports and caches are no part of it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    load(str(folder), device="cpu", sections=SPLIT)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    assert grown < checkpoint.TALKER / 10 and before < checkpoint.TALKER


def test_the_split_is_the_published_one_unless_said(folder: Path) -> None:
    about = published_options(read_config("made", str(folder)), None)
    assert about is not None and about.sections == SECTIONS == (18, 18, 18, 10)
    with pytest.raises(ModelError, match="four numbers that sum to 8"):
        load(str(folder), device="cpu")


def test_a_sieve_inside_a_checkpoint_counts_as_the_models_own(folder: Path) -> None:
    options = LoadOptions(sections=SPLIT)
    assert check_sieve(str(folder), options) is None
    assert outline(str(folder), options).own_sieve
    with pytest.raises(ModelError, match="not calibrated"):
        read_calibration(str(folder), options)
    with pytest.raises(ModelError, match="inside the model's checkpoint"):
        sieve_to_write(check_sieve(str(folder), options), None)


def test_a_split_without_such_a_sieve_is_refused(tmp_path: Path) -> None:
    plain = checkpoint.write(tmp_path, tinymodel.backbone())
    with pytest.raises(OptionError, match="none in use"):
        load(str(plain), device="cpu", sections=SPLIT)
    assert load(str(plain), device="cpu").sieve is None
    with pytest.raises(ModelError, match="no sieve weights"):
        check_sieve(str(plain), LoadOptions())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"compression_ratio": None}, "no compression_ratio"),
        ({"av_refiner_layers": None}, "no av_refiner_layers"),
        ({"av_refiner_layers": 3}, "names: 3 layers"),
        ({"compression_ratio": 1.5}, "outside"),
    ],
)
def test_fields_that_do_not_describe_the_weights_are_told(
    change: dict[str, Any], said: str, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    config["thinker_config"]["text_config"] |= change
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ModelError, OptionError), match=said):
        load(str(tmp_path), device="cpu", sections=SPLIT)
