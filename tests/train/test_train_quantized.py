"""Training beside a quantized decoder: the plug-in sieve and QLoRA, from a checkpoint to a sieve that answers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from echoingpixels.checkpoints import loading
from echoingpixels.checkpoints.loading import new_sieve
from echoingpixels.errors import DataError, ModelError
from echoingpixels.from_pretrained import load, save
from echoingpixels.generation.evidence import NO_GRADIENT
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions
from echoingpixels.reducers.cs2 import SieveOptions
from echoingpixels.train import checkpoint
from echoingpixels.train.recipe import Data, Lora, Recipe, Stage
from echoingpixels.train.run import Run, train_model
from tests.support import clips, tinymodel
from tests.support.program import environment
from tests.support.smalltrain import SIZES as SMALL
from tools.tiny.build import build_backbone

SIZES = replace(SMALL, width=64, layers=4, mlp=128, sections=(4, 4, 4, 4))  # 4-bit kernels take no narrower ones
PLUG = Stage("plug", "distil", steps=4, batch=1, accumulate=2, lr=3e-3, form="extractive", layers=2, save_every=2)
TUNE = Stage(
    "tune", "sieve", steps=4, batch=1, lr=3e-3, form="fused", layers=2, save_every=2, keep=PLUG.keep, lora=Lora(rank=2)
)
KILL = """
import os, signal, sys
from pathlib import Path
from echoingpixels.train import run
from tests.train import test_train_quantized as t

def dies(backbone, sieve, draw, plain=run.loss_of):
    if draw.item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(backbone, sieve, draw)

run.loss_of = dies
run.train_model(t.recipe(Path(sys.argv[1]), t.TUNE), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in Qwen2.5-Omni's layout, two clips, and questions about them that have no answers."""
    folder = tmp_path_factory.mktemp("quantized")
    torch.manual_seed(0)
    save(EchoingPixels(build_backbone(SIZES, "small")), folder / "base")
    (folder / "clips").mkdir()
    clips.write(folder / "clips" / "a.mp4", clips.Film(seconds=3.0, tracks=(clips.Track(clips.beep(3.0, 1.0)),)))
    clips.write(folder / "clips" / "b.mp4", clips.Film(seconds=4.0))
    (folder / "questions.txt").write_text("What is heard?\nWhat is seen?\n")
    return folder


def recipe(folder: Path, *stages: Stage, **changes: Any) -> Recipe:
    data = Data(train=folder / "questions.txt", media=folder / "clips", answer_tokens=4)
    made = Recipe("small", 3, model=str(folder / "base"), quant="nf4", checkpointing=True, data=data, stage=stages)
    return replace(made, **changes)


@pytest.fixture(scope="module")
def plugged(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a plug-in run."""
    out = tmp_path_factory.mktemp("plugged")
    assert train_model(recipe(folder, PLUG), out) == out / "sieve"
    return out


@pytest.fixture(scope="module")
def tuned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a QLoRA run."""
    out = tmp_path_factory.mktemp("tuned")
    train_model(recipe(folder, TUNE), out)
    return out


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def learned(folder: Path) -> dict[str, Tensor]:
    saved = checkpoint.last(folder)
    assert saved is not None
    return load_file(saved / checkpoint.WEIGHTS)


@pytest.mark.parametrize("layout", ["as saved", "as published", "in shards"])
def test_a_new_sieve_of_a_quantized_model_starts_as_the_unquantized_layers(
    layout: str, folder: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(folder / "base", tmp_path / "base"))
    weights = load_file(base / "model.safetensors")
    if layout == "as published":
        names = {name: "thinker." + name.replace("model.language_model.", "model.", 1) for name in weights}
        weights = {
            new.replace("model.visual", "visual").replace("model.audio_tower", "audio_tower"): weights[old]
            for old, new in names.items()
        }
        save_file(weights, base / "model.safetensors", {"format": "pt"})
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": config}))
    if layout == "in shards":
        parts = [dict(list(weights.items())[i::2]) for i in range(2)]
        files = [f"model-{i + 1:05}-of-00002.safetensors" for i in range(2)]
        for part, file in zip(parts, files, strict=True):
            save_file(part, base / file, {"format": "pt"})
        index = {name: file for part, file in zip(parts, files, strict=True) for name in part}
        (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        (base / "model.safetensors").unlink()
    whole, small = (load(str(base), device="cpu", quant=quant) for quant in ("none", "nf4"))
    made = [new_sieve(one.backbone, SieveOptions(layers=3)).layers.state_dict() for one in (whole, small)]  # type: ignore[arg-type]
    assert same(*made) and len(made[0]) == 3 * 12


def test_only_the_first_layers_are_read_from_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    plain = loading.read_tensors
    monkeypatch.setattr(loading, "read_tensors", lambda *a: read.append(plain(*a)) or read[-1])
    small = load(str(folder / "base"), device="cpu", quant="nf4")
    new_sieve(small.backbone, SieveOptions(layers=1))  # type: ignore[arg-type]
    assert {name.split(".")[0] for name in read[0]} == {"0"} and len(read[0]) == 12


def test_files_that_lack_the_layers_are_one_error(folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(folder / "base", tmp_path / "base"))
    small = load(str(base), device="cpu", quant="nf4")
    (base / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="could not be loaded") as error:
        new_sieve(small.backbone, SieveOptions(layers=1))  # type: ignore[arg-type]
    assert "\n" not in error.value.message


def test_a_plug_in_run_leaves_a_sieve_and_no_model(plugged: Path) -> None:
    assert {path.name for path in (plugged / "sieve").iterdir()} == {"sieve.json", "sieve.safetensors"}
    assert not (plugged / "model").exists() and not (plugged / "plug" / "model").exists()
    assert {name.split(".")[1] for name in learned(plugged / "plug")} == {"sieve"}


def test_questions_without_answers_get_the_models_own_once(folder: Path, plugged: Path) -> None:
    lines = [json.loads(line) for line in (plugged / "bank" / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(isinstance(answer, str) and most == 4 for _, _, most, _, answer in lines)
    backbone = Run(recipe(folder, PLUG), folder).backbone
    clip = read_clip(folder / "clips" / "a.mp4", frame_size=EchoingPixels(backbone).frame_size)
    answer = EchoingPixels(backbone).ask(
        clip, "What is heard?", reducer="full", generate=GenerateOptions(max_new_tokens=4)
    )
    assert answer.text.strip() in {text for _, question, _, _, text in lines if question == "What is heard?"}


@pytest.mark.parametrize(("quant", "has"), [("none", True), ("int8", True), ("nf4", False)])
def test_weights_through_which_a_gradient_passes_give_evidence(quant: Any, has: bool, folder: Path) -> None:
    model = load(str(folder / "base"), device="cpu", quant=quant)
    for _ in range(2):  # four-bit weights are packed by their first run
        answer = model.ask(tinymodel.clip(4.0), "Who?", reducer="uniform", keep=0.5, max_new_tokens=4)
        assert answer.text and bool(answer.evidence.moments) == has
        assert answer.evidence.reason == (None if has else NO_GRADIENT)


def rounded(run: Run) -> EchoingPixels:
    """The model of a run as its sieve's file has it."""
    assert run.sieve is not None
    run.backbone.text.eval()
    return EchoingPixels(run.backbone, run.sieve.to(torch.bfloat16).to(run.backbone.dtype).eval(), "nf4")


@pytest.mark.parametrize("kind", ["plugged", "tuned"])
def test_the_saved_sieve_answers_as_the_one_that_was_trained(
    kind: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    out, stage = request.getfixturevalue(kind), {"plugged": PLUG, "tuned": TUNE}[kind]
    wanted = recipe(folder, stage)
    run = Run(wanted, out)
    run.stage(stage, 1, train=False)
    again = load(str(folder / "base"), device="cpu", quant="nf4", sieve=str(out / "sieve"))
    clip = tinymodel.clip(4.0)
    asked = [
        one.ask(clip, "Who?", keep=0.3, generate=GenerateOptions(max_new_tokens=6)) for one in (rounded(run), again)
    ]
    assert asked[0].token_ids == asked[1].token_ids and asked[0].kept_times == asked[1].kept_times
    plain = load(str(folder / "base"), device="cpu", quant="nf4").ask(clip, "Who?", reducer="uniform", keep=0.3)
    assert plain.kept_times != asked[0].kept_times


def test_qlora_learns_adapters_and_sieve_and_nothing_else(folder: Path, tuned: Path) -> None:
    names = learned(tuned / "tune")
    assert all("lora_" in name or name.startswith("parts.sieve.") for name in names)
    assert any(name.startswith("parts.text.") for name in names)
    assert {path.name for path in (tuned / "sieve").iterdir()} >= {
        "sieve.json", "sieve.safetensors", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    kept = load_file(tuned / "sieve" / "adapter_model.safetensors")
    assert any(float(value.abs().max()) > 0 for name, value in kept.items() if "lora_B" in name)


def test_a_killed_qlora_run_resumes_to_the_same_weights(folder: Path, tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "bank", tmp_path / "bank")
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(folder), str(tmp_path)], env=environment(), check=False, timeout=280
    )
    assert done.returncode == -signal.SIGKILL and checkpoint.step_of(checkpoint.last(tmp_path / "tune")) == 2
    train_model(recipe(folder, TUNE), tmp_path)
    assert same(learned(tmp_path / "tune"), learned(tuned / "tune"))
    a, b = ((out / "tune.csv").read_text().splitlines() for out in (tmp_path, tuned))
    assert [row.split(",")[2:] for row in a] == [row.split(",")[2:] for row in b]


def test_adapters_continue_from_stage_to_stage_unmerged(folder: Path, tuned: Path, tmp_path: Path) -> None:
    for name in ("bank", "tune", "tune.csv"):
        (shutil.copytree if (tuned / name).is_dir() else shutil.copy)(tuned / name, tmp_path / name)
    more = replace(TUNE, name="more", steps=2, layers=None)
    train_model(recipe(folder, TUNE, more), tmp_path)
    first, second = (load_file(tmp_path / name / "sieve" / "adapter_model.safetensors") for name in ("tune", "more"))
    assert first.keys() == second.keys() and not same(first, second)
    with pytest.raises(DataError, match="other LoRA"):
        train_model(recipe(folder, TUNE, replace(more, name="other", lora=Lora(rank=3))), tmp_path)


@pytest.mark.parametrize(("stage", "keep"), [(PLUG, 1.0), (TUNE, 0.3)], ids=["plug-in", "qlora"])
def test_checkpointing_changes_no_gradient(folder: Path, stage: Stage, keep: float, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        wanted = recipe(folder, stage, checkpointing=checkpointing)
        run = Run(wanted, tmp_path)
        torch.manual_seed(0)
        modules, loss, _ = run.parts(stage)
        draws, _ = run.inputs(stage, 1)
        held: list[int] = []

        def note(tensor: Tensor, held: list[int] = held) -> Tensor:
            held.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            value, _ = loss(draws[0])
        value.backward()  # type: ignore[no-untyped-call]
        found.append(({n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}, sum(held)))
    (plain, much), (sparing, little) = found
    assert plain and plain.keys() == sparing.keys() and little < much / 2
    for name, gradient in plain.items():
        torch.testing.assert_close(sparing[name], gradient, atol=1e-5, rtol=1e-3)


def test_tasks_that_a_quantized_decoder_cannot_learn_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"weights of a quantized decoder") as error:
        recipe(folder, replace(TUNE, lora=None))
    assert "[stage.lora]" in error.value.hint
    with pytest.raises(DataError, match="task answers, has a quantized model"):
        recipe(folder, Stage("full", "answers", 3))
    with pytest.raises(DataError, match="names no model"):
        recipe(folder, PLUG, model=None)
