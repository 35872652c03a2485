"""Quantized weights kept on disk: found by what they were made of, whole or not at all, and never another model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels import loading
from echoingpixels.loading import KNOWN, load
from echoingpixels.model import EchoingPixels
from tests import tinymodel
from tests.program import Program


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each load was quantized from."""
    made: list[str] = []
    before = loading._quantization

    def spy(quant: Any, dtype: Any) -> Any:
        made.append(quant)
        return before(quant, dtype)

    def fetched(kind: Any, place: str, **options: Any) -> Any:
        if options.get("quantization_config") is not None:
            made.append("from " + Path(place).name)
        return fetch(kind, place, **options)

    fetch = loading.fetch
    monkeypatch.setattr(loading, "_quantization", spy)
    monkeypatch.setattr(loading, "fetch", fetched)
    return made


def weights(model: EchoingPixels) -> dict[str, torch.Tensor]:
    thinker = model.backbone.thinker  # type: ignore[attr-defined]
    return dict(thinker.state_dict())


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_second_load_quantizes_nothing_and_gives_the_same_weights(
    quant: str, tiny: str, tmp_path: Path, quantized: list[str]
) -> None:
    options: dict[str, Any] = {"quant": quant, "device": "cpu", "cache": tmp_path}
    first = load(tiny, **options)
    source = Path(KNOWN.get(tiny, tiny)).name
    assert quantized == [quant, f"from {source}"] and len(list(tmp_path.iterdir())) == 1
    again = load(tiny, **options)
    assert quantized == [quant, f"from {source}", quant]
    one, other = weights(first), weights(again)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    clip = tinymodel.clip(2.0)
    assert first.ask(clip, "Who?", keep=0.2).token_ids == again.ask(clip, "Who?", keep=0.2).token_ids


def test_other_weights_another_quantization_and_no_cache_quantize_anew(
    tiny: str, tmp_path: Path, quantized: list[str]
) -> None:
    copy, cache = tmp_path / "copy", tmp_path / "cache"
    shutil.copytree(KNOWN.get(tiny, tiny), copy)
    for options in ({"quant": "nf4"}, {"quant": "int8"}):
        load(str(copy), device="cpu", cache=cache, **options)
    load(str(copy), device="cpu", quant="nf4")
    changed = copy / "model.safetensors"
    changed.write_bytes(changed.read_bytes())
    load(str(copy), device="cpu", quant="nf4", cache=cache)
    assert quantized.count("from copy") == 4 and len(list(cache.iterdir())) == 3


def test_a_damaged_copy_is_made_again(tiny: str, tmp_path: Path, quantized: list[str]) -> None:
    load(tiny, quant="nf4", device="cpu", cache=tmp_path)
    (file,) = tmp_path.glob("*/model.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    load(tiny, quant="nf4", device="cpu", cache=tmp_path)
    assert len(quantized) == 4 and file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_only_means_quantizing_again(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert load(tiny, quant="nf4", device="cpu", cache=tmp_path / "file" / "cache").quant == "nf4"


def test_the_command_keeps_them_beside_the_features_and_clears_them_away(
    film: Path, ep: Program, tiny: str, tmp_path: Path
) -> None:
    asked = ("ask", film, "Who?", "--model", tiny, "--device", "cpu", "--quant", "nf4", "--max-new-tokens", "2")
    assert ep(*asked, "--no-cache").code == 0
    assert ep(*asked, "--cache-dir", tmp_path).code == 0
    said = json.loads(ep("cache", "--cache-dir", tmp_path, "--json").out)
    assert said["quantized"]["models"] == 1 and said["quantized"]["bytes"] > 5e6 and said["clips"] == 1
    assert "1 quantized model," in ep("cache", "--cache-dir", tmp_path).out
    cleared = json.loads(ep("cache", "--cache-dir", tmp_path, "--clear", "--json").out)
    assert cleared["quantized"] == {"folder": str(tmp_path / "quantized"), "models": 0, "bytes": 0}
