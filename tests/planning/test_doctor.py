"""`ep doctor` and `ep models`: the state of this machine, also if parts of it are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from echoingpixels.checkpoints import hub
from echoingpixels.checkpoints.loading import KNOWN
from echoingpixels.options import LoadOptions
from echoingpixels.planning import catalog, doctor
from echoingpixels.planning.doctor import Check, Checkup
from echoingpixels.planning.meta_model import outline
from tests.support.program import Program


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def checks(name: str) -> dict[str, Check]:
    """The results of a check."""
    return {check.name: check for check in doctor.checked(name, doctor.CHECKS[name])}


def test_a_whole_machine_works(ep: Program) -> None:
    done = ep("doctor", "--json")
    report = json.loads(done.out)
    assert done.code == 0 and report["works"]
    by_name = {check["name"]: check for check in report["checks"]}
    assert {"python", "torch", "transformers", "av", "decoders", "CUDA", "memory", "hub cache"} <= set(by_name)
    assert by_name["torch"]["seen"] == metadata.version("torch")
    assert [entry["name"] for entry in report["models"]] == list(KNOWN)
    assert all(check["hint"] for check in report["checks"] if check["state"] != "ok")


def test_a_missing_part_that_is_needed_fails_with_a_hint(ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Check("decoders", "broken", "no h264", "Install PyAV.")
    monkeypatch.setattr(doctor, "checkup", lambda: Checkup((found,), ()))
    done = ep("doctor")
    assert done.code == 1 and done.err == ""
    assert done.out.splitlines() == ["broken   decoders: no h264", "         → Install PyAV."]


def test_a_missing_part_that_is_not_needed_does_not_fail() -> None:
    assert Checkup((Check("CUDA", "missing", "none", "Buy one.", needed=False),), ()).works
    assert not Checkup((Check("torch", "missing", "none", "Install it."),), ()).works


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no libcudart')", "no libcudart"),
        ("import os; os.abort()", "does not work"),
        ("import time; time.sleep(60)", "within 3 s"),
    ],
)
def test_a_broken_bitsandbytes_is_reported(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bitsandbytes"
    folder.mkdir()
    (folder / "__init__.py").write_text(code)
    # Without torch, which takes longer to load than the test may.
    monkeypatch.setattr(doctor, "QUANTIZE", "import bitsandbytes")
    monkeypatch.setattr(doctor, "PATIENCE", 3 if "sleep" in code else 60)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = checks("bitsandbytes")["bitsandbytes"]
    assert found.state == "broken" and reason in found.seen and "--quant" in found.hint and not found.needed


def test_bitsandbytes_that_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", gone)
    found = checks("bitsandbytes")["bitsandbytes"]
    assert found.state == "missing" and "pip install" in found.hint and not found.needed
    assert checks("packages")["torch"].state == "missing"


def test_the_trial_of_bitsandbytes_is_valid_python() -> None:
    pytest.importorskip("bitsandbytes", reason="would prove that the trial of bitsandbytes passes where it works")
    subprocess.run([sys.executable, "-c", doctor.QUANTIZE], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_version_out_of_range_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "6.1" if name == "transformers" else "99")
    found = checks("packages")
    assert found["transformers"].state == "broken" and "<6" in found["transformers"].seen
    assert "pip install 'transformers" in found["transformers"].hint
    assert found["torch"].state == "ok" and "bitsandbytes" not in found


def test_a_driver_that_fails_is_reported_and_nothing_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bool:
        raise RuntimeError("CUDA driver version is insufficient\nfor the runtime")

    monkeypatch.setattr(torch.cuda, "is_available", fail)
    found = checks("CUDA")["CUDA"]
    assert found.state == "broken" and found.seen == "CUDA driver version is insufficient"


def test_a_missing_decoder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_decodes", lambda name: name != "av1")
    found = checks("decoders")
    assert found["decoders"].state == "ok" and "no av1" in found["other decoders"].seen
    monkeypatch.setattr(doctor, "_decodes", lambda name: name != "h264")
    assert checks("decoders")["decoders"].state == "broken"


def test_models_are_listed_with_what_they_need(ep: Program) -> None:
    done = ep("models", "--json", "--device", "cpu")
    entries = {entry["name"]: entry for entry in json.loads(done.out)["models"]}
    tiny, large = entries["tiny"], entries["qwen2.5-omni-7b"]
    assert tiny["folder"] and "own" in tiny["sieves"] and "fused" in tiny["sieves"]
    assert tiny["download"] == (Path(tiny["folder"]) / "model.safetensors").stat().st_size
    assert large["folder"] is None and large["sieves"] == []
    weights = {need["quant"]: need["weights"] for need in large["needs"]}
    assert weights["nf4"] < weights["int8"] < weights["none"] < large["download"]  # with the talker
    assert all(need["peak"] > need["weights"] for entry in entries.values() for need in entry["needs"])
    lines = ep("models", "--device", "cpu").out.splitlines()
    assert len(lines) == 1 + 3 * len(KNOWN) and lines[0].startswith("model")


def test_a_model_is_here_once_all_its_files_are(no_hub: Path) -> None:
    place = KNOWN["qwen2.5-omni-3b"]
    repository = no_hub / f"models--{place.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / hub.INDEX).write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    (snapshot / "1.safetensors").write_bytes(bytes(10))
    assert hub.local_folder(place) is None
    (snapshot / "2.safetensors").write_bytes(bytes(32))
    found = catalog.entry_of("qwen2.5-omni-3b", place, "cpu")
    assert found.folder == snapshot and found.download == 42


def test_a_model_fits_by_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = outline("qwen2.5-omni-3b", LoadOptions(device="cuda"))
    peaks = {need.quant: need.peak for need in catalog.needs_of(drawn)}
    monkeypatch.setattr("echoingpixels.planning.estimate.free_memory", lambda device: peaks["int8"])
    assert {need.quant: need.fits for need in catalog.needs_of(drawn)} == {"none": False, "int8": True, "nf4": True}


def test_a_torch_without_kernels_for_the_card_is_found_by_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch, "ones", fail)
    found = doctor._matmul()
    assert found.state == "broken" and "float16, compute capability 7.5" in found.seen and "no kernel" in found.seen
    ones = torch.zeros(64, 64).fill_(1.0)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: ones)
    assert doctor._matmul().state == "ok"
