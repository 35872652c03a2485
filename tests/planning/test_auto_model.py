"""`--model auto`, `ep models default`, downloads that are announced, and the note about clips outside tiny's world."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels import from_pretrained as auto_model
from echoingpixels.checkpoints import hub
from echoingpixels.errors import DataError, ModelError, OptionError
from echoingpixels.from_pretrained import load, resolve, save_default, saved_default
from echoingpixels.options import LoadOptions
from echoingpixels.planning import estimate
from tests.support.program import Program, environment

DEMO = Path(__file__).parents[2] / "models/echoingpixels/assets/demo.mp4"
QUESTION = "Which object appears first?"
BIG, SMALL = "qwen2.5-omni-7b", "qwen2.5-omni-3b"
GB = 10**9
HEAVY = ("torch", "transformers", "accelerate", "av", "soundfile", "scipy", "sklearn", "torchvision", "matplotlib")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`gpu(free_bytes, *models)`: a CUDA device with so much free memory, and models that are on this machine."""

    def make(free: int, *local: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 6))
        monkeypatch.setattr(estimate, "free_memory", lambda device: free)
        places = {auto_model.KNOWN[name] for name in local}
        for module in (auto_model, hub):
            monkeypatch.setattr(module, "local_folder", lambda place: Path(place) if place in places else None)

    return make


def test_ask_imports_no_planner_at_most_63_modules_and_of_transformers_two_classes() -> None:
    code = f"""
import gc, sys
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor
needed = set(sys.modules)
from epcli.main import main
for model in ("tiny", "auto"):
    try:
        main(["ask", {str(DEMO)!r}, {QUESTION!r}, "--model", model, "--no-cache", "--max-new-tokens", "2"])
    except SystemExit as end:
        assert not end.code, end.code
    found = {{name for name in sys.modules if name.split(".")[0] == "echoingpixels"}}
    assert len(found) <= 63 and not any(".planning" in name for name in found), (model, len(found), found)
    more = {{name for name in sys.modules if name.split(".")[0] in {HEAVY!r}}} - needed
    assert not more, (model, more)
assert gc.isenabled() and gc.get_freeze_count() > 100_000, "garbage collection searches the imported objects"
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=120)


def test_auto_is_tiny_without_a_gpu() -> None:
    chosen = resolve("auto", LoadOptions())
    assert (chosen.name, chosen.options.quant, chosen.download) == ("tiny", "none", None)
    assert load("auto").backbone.name == "tiny"


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (40 * GB, (BIG, "none")),
        (14 * GB, (BIG, "nf4")),
        (8 * GB, (SMALL, "nf4")),
        (2 * GB, ("tiny", "none")),
    ],
)
def test_on_a_gpu_auto_is_the_largest_that_the_plan_says_fits(gpu: Any, free: int, expected: tuple[str, str]) -> None:
    gpu(free, BIG, SMALL)
    chosen = resolve("auto", LoadOptions())
    assert (chosen.name, chosen.options.quant) == expected and chosen.download is None


def test_a_model_on_this_machine_is_preferred_to_a_larger_download(gpu: Any) -> None:
    gpu(40 * GB, SMALL)
    assert resolve("auto", LoadOptions()).name == SMALL
    gpu(40 * GB)
    wanted = resolve("auto", LoadOptions())
    assert wanted.name == BIG and wanted.automatic and wanted.download is not None
    assert resolve("auto", LoadOptions(), downloads=False).name == "tiny"


def test_a_quantization_that_is_given_is_kept(gpu: Any) -> None:
    gpu(40 * GB, BIG, SMALL)
    chosen = resolve("auto", LoadOptions(quant="int8"))
    assert (chosen.name, chosen.options.quant) == (BIG, "int8")


def test_without_bitsandbytes_auto_is_never_quantized(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_model, "find_spec", lambda name: None)
    gpu(14 * GB, BIG, SMALL)
    chosen = resolve("auto", LoadOptions())
    assert (chosen.name, chosen.options.quant) == (SMALL, "none")


def test_a_saved_default_is_what_auto_stands_for(ep: Program) -> None:
    assert ep("models", "default", SMALL, "--quant", "nf4").code == 0
    saved = saved_default()
    assert saved is not None and (saved.name, saved.quant) == (SMALL, "nf4")
    chosen = resolve("auto", LoadOptions())
    assert (chosen.name, chosen.options.quant) == (SMALL, "nf4")
    shown = json.loads(ep("models", "default", "--json").out)["default"]
    assert shown["model"] == SMALL and str(saved.file) in shown["reason"]
    assert ep("models", "default", "auto").code == 0 and saved_default() is None


def test_a_saved_folder_is_found_from_any_other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    save_default("mine")
    saved = saved_default()
    assert saved is not None and saved.name == str((tmp_path / "mine").resolve())


def test_a_wrong_default_is_refused_in_one_line(ep: Program) -> None:
    with pytest.raises(ModelError, match="Unknown model"):
        save_default("no such model")
    assert ep("models", "sing").code == 2
    file = auto_model.default_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    with pytest.raises(DataError, match="holds no default model"):
        saved_default()


def test_a_model_that_is_not_on_this_machine_is_not_downloaded_without_consent(
    ep: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "measured", lambda wanted: wanted)
    monkeypatch.setattr(hub, "download", lambda *_, **__: pytest.fail("downloaded without consent"))
    done = ep("ask", DEMO, QUESTION, "--model", SMALL)
    assert done.code == 1 and done.out == ""
    for words in ("12 GB", "Qwen Research License", "--yes", "hub"):
        assert words in done.err
    planned = ep("ask", DEMO, QUESTION, "--model", SMALL, "--dry-run")
    assert planned.code == 0


def test_a_mistyped_folder_is_not_taken_for_a_model_on_the_hub(ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "measured", lambda wanted: wanted)
    done = ep("ask", DEMO, QUESTION, "--model", "runs/new")
    assert done.code == 1 and "runs/new is neither a folder here" in done.err and "Check the path." in done.err


def test_with_yes_a_download_is_announced_and_made(ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def fetch(wanted: hub.Download, progress: bool) -> None:
        fetched.append(wanted.repository)
        raise ModelError("The network ends here.", "Stop.")

    monkeypatch.setattr(hub, "measured", lambda wanted: wanted)
    monkeypatch.setattr(hub, "download", fetch)
    done = ep("ask", DEMO, QUESTION, "--model", SMALL, "--yes")
    assert fetched == ["Qwen/Qwen2.5-Omni-3B"] and done.code == 1
    assert "Download: Qwen/Qwen2.5-Omni-3B" in done.err and "The network ends here." in done.err


def test_without_consent_auto_on_a_gpu_answers_with_tiny_and_names_what_would_fit(
    ep: Program, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from epcli import session as commands

    monkeypatch.setattr(hub, "measured", lambda wanted: wanted)
    gpu(40 * GB)
    chosen = commands.choose("auto", LoadOptions())
    assert chosen.name == "tiny" and chosen.load.quant == "none"


def test_the_size_of_a_download_is_the_hub_s_where_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class File:
        def __init__(self, size: int, wanted: bool) -> None:
            self.file_size, self.will_download = size, wanted

    wanted = hub.missing(SMALL, auto_model.KNOWN[SMALL])
    assert wanted is not None
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: [File(5 * GB, True), File(7 * GB, False)]
    )
    assert hub.measured(wanted).size == 5 * GB
    monkeypatch.undo()
    assert hub.missing("tiny", auto_model.KNOWN["tiny"]) is None


def test_tiny_says_that_it_does_not_know_a_stranger_s_clip(film: Path, ep: Program) -> None:
    done = ep("ask", film, QUESTION, "--json")
    (note,) = (one for one in json.loads(done.out)["notes"] if "SyncClips" in one)
    assert "--model qwen2.5-omni-3b" in note
    again = ep("ask", film, QUESTION)
    assert again.err.count("note: tiny was trained") == 1, "a clip from the cache has the note once, too"
    assert not [one for one in json.loads(ep("ask", DEMO, QUESTION, "--json").out)["notes"] if "SyncClips" in one]


def test_every_command_that_answers_has_the_note(film: Path, ep: Program, tmp_path: Path) -> None:
    questions, rows = tmp_path / "q.jsonl", tmp_path / "rows.jsonl"
    questions.write_text(json.dumps({"media": str(film), "question": QUESTION, "answer": "cat"}) + "\n")
    assert ep("evaluate", questions, "--keep", "1,0.5").err.count("note: tiny was trained") == 1
    assert "SyncClips" in ep("explain", film, QUESTION, "--out", tmp_path / "page.html").err
    assert "SyncClips" in (tmp_path / "page.html").read_text()
    assert "SyncClips" in ep("profile", film, QUESTION, "--repeat", 1, "--warm-up", 0, "--keep", "1,0.5").err
    assert ep("batch", film, "--question", QUESTION, "--out", rows).code == 0
    assert [note for note in json.loads(rows.read_text())["notes"] if "SyncClips" in note]


@pytest.mark.parametrize("device", ["cuda:x", "gpu", "cuda:", "mps"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(OptionError):
        LoadOptions(device=device)


def test_a_cuda_device_that_is_not_there_is_named(gpu: Any) -> None:
    from echoingpixels.checkpoints.loading import device_of

    gpu(40 * GB)
    assert device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ModelError, match="cuda:2 was not found: there are 2 CUDA devices"):
        device_of("cuda:2")


def test_float16_is_chosen_where_bfloat16_is_emulated(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from echoingpixels.checkpoints.loading import dtype_of, read_config

    gpu(40 * GB)
    config, cuda = read_config("tiny", auto_model.KNOWN["tiny"]), torch.device("cuda")
    assert dtype_of(config, cuda) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert dtype_of(config, cuda) == torch.float16
    assert dtype_of(config, cuda, "float32") == torch.float32
    assert dtype_of(config, torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_model_is_loaded_in_the_dtype_asked_for(dtype: str) -> None:
    model = load("tiny", dtype=dtype)
    assert model.backbone.dtype == getattr(torch, dtype)
    assert {p.dtype for p in model.backbone.parameters()} == {getattr(torch, dtype)}
