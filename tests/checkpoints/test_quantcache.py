"""Quantized weights kept on disk: found by what they were made of, whole or not at all, and never another model's."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from echoingpixels.checkpoints import loading, quantization
from echoingpixels.checkpoints.loading import KNOWN
from echoingpixels.checkpoints.quantization import clear, entries, keep_quantized, kept_at
from echoingpixels.from_pretrained import load
from echoingpixels.model import EchoingPixels
from echoingpixels.storage.folders import STALE, UNFINISHED
from tests.support import tinymodel
from tests.support.program import Program


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each load was quantized from."""
    made: list[str] = []
    before = quantization.bitsandbytes_config

    def spy(quant: Any, dtype: Any) -> Any:
        made.append(quant)
        return before(quant, dtype)

    def fetched(kind: Any, place: str, **options: Any) -> Any:
        if options.get("quantization_config") is not None:
            made.append("from " + Path(place).name)
        return fetch(kind, place, **options)

    fetch = loading.fetch
    monkeypatch.setattr(quantization, "bitsandbytes_config", spy)
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


def test_other_weights_another_quantization_and_no_cache_quantize_again(
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


class Thinker:
    """Stands in for one that is `size` bytes on disk; saves differ by their contents."""

    def __init__(self, size: int, error: Exception | None = None) -> None:
        self.size, self.error = size, error

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(self.size))
        if self.error is not None:
            raise self.error


def place(cache: Path, number: int) -> Path:
    return cache / f"{number:032x}"


def test_the_least_recently_used_go_when_there_are_too_many(tmp_path: Path) -> None:
    for number in range(4):
        keep_quantized(Thinker(100), place(tmp_path, number), limit=300)
        os.utime(place(tmp_path, number), (1000 + number, 1000 + number))
    assert [entry.path for entry in entries(tmp_path)] == [place(tmp_path, number) for number in (1, 2, 3)]
    keep_quantized(Thinker(1000), place(tmp_path, 9), limit=300)  # the newest stays, or it would be made each time
    assert [entry.path for entry in entries(tmp_path)] == [place(tmp_path, 9)]


def test_what_is_found_counts_as_used_now(tmp_path: Path, tiny: str) -> None:
    folder = kept_at(tmp_path, KNOWN[tiny], "nf4", "float32")
    for path, age in ((folder, 100), (place(tmp_path, 1), 50)):
        keep_quantized(Thinker(100), path)
        os.utime(path, (time.time() - age,) * 2)
    assert kept_at(tmp_path, KNOWN[tiny], "nf4", "float32") == folder == entries(tmp_path)[-1].path


def test_a_save_that_was_killed_is_no_model_and_goes_after_an_hour(tmp_path: Path) -> None:
    left = [tmp_path / name for name in (f".old{UNFINISHED}", f".young{UNFINISHED}", "tmpabcd1234")]
    for path in left:
        Thinker(100).save_pretrained(path)
    for path in (left[0], left[2]):
        os.utime(path, (time.time() - 2 * STALE,) * 2)
    assert entries(tmp_path) == []
    keep_quantized(Thinker(100), place(tmp_path, 1))
    assert [path.exists() for path in left] == [False, True, False] and len(entries(tmp_path)) == 1


def test_a_damaged_folder_that_could_not_be_deleted_is_replaced(tmp_path: Path) -> None:
    Thinker(1).save_pretrained(place(tmp_path, 1))
    keep_quantized(Thinker(100), place(tmp_path, 1))
    assert [entry.bytes for entry in entries(tmp_path)] == [100] and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_only_means_quantizing_again(tmp_path: Path) -> None:
    keep_quantized(Thinker(100, SafetensorError("No space left on device")), place(tmp_path, 1))
    assert list(tmp_path.iterdir()) == []


def test_clearing_deletes_nothing_that_is_not_ours(tmp_path: Path) -> None:
    keep_quantized(Thinker(100), place(tmp_path, 1))
    Thinker(100).save_pretrained(tmp_path / f".killed{UNFINISHED}")
    Thinker(100).save_pretrained(tmp_path / "my own 4-bit model")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my own 4-bit model"]


def test_the_command_keeps_them_beside_the_features_and_clears_them_away(
    film: Path, ep: Program, tiny: str, tmp_path: Path
) -> None:
    asked = ("ask", film, "Who?", "--model", tiny, "--device", "cpu", "--quant", "nf4", "--max-new-tokens", "2")
    assert ep(*asked, "--no-cache").code == 0
    assert ep(*asked, "--cache-dir", tmp_path).code == 0
    shown = json.loads(ep("cache", "--cache-dir", tmp_path, "--json").out)
    assert shown["quantized"]["models"] == 1 and shown["quantized"]["bytes"] > 5e6 and shown["clips"] == 1
    assert "1 quantized model," in ep("cache", "--cache-dir", tmp_path).out
    cleared = json.loads(ep("cache", "--cache-dir", tmp_path, "--clear", "--json").out)
    about = {"folder": str(tmp_path / "quantized"), "models": 0, "bytes": 0, "limit_bytes": 32 << 30}
    assert cleared["quantized"] == about
    assert {path.name for path in tmp_path.iterdir()} == {"features", "quantized"}
