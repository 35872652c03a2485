"""The comparison with recorded numbers holds for both fixture sets, and would notice if it did not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.compare import main

DATA = Path(__file__).parents[1] / "data"
REFERENCE, PROCESSOR, SEATS = DATA / "reference", DATA / "processor", DATA / "seats"
TRAIN, SOUND = "case_av_train", "case_audio_only"


def copy_of(source: Path, to: Path, cases: tuple[str, ...]) -> Path:
    """A copy of a fixture folder with only some of its cases, open for changes."""
    to.mkdir()
    manifest: Any = json.loads((source / "manifest.json").read_text())
    if isinstance(manifest, dict):
        for name in (manifest["config_file"], manifest["weights_file"]):
            shutil.copyfile(source / name, to / name)
        manifest["cases"] = [case for case in manifest["cases"] if Path(case["file"]).stem in cases]
    else:
        manifest = [case for case in manifest if case["name"] in cases]
    (to / "manifest.json").write_text(json.dumps(manifest))
    for case in cases:
        shutil.copyfile(source / f"{case}.safetensors", to / f"{case}.safetensors")
    return to


def change(path: Path, name: str, by: float) -> None:
    """Change one number of one tensor."""
    tensors = load_file(path)
    tensor = tensors[name].clone()
    tensor.view(-1)[tensor.numel() // 2] += by
    save_file({**tensors, name: tensor}, path)


@pytest.mark.parametrize("folder", [REFERENCE, PROCESSOR, SEATS])
def test_every_recorded_number_is_met(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([str(folder)])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "within their bounds" in out and "problem" not in out


@pytest.mark.parametrize(
    ("case", "name", "by", "kind"),
    [
        (TRAIN, "s5-4-4-3.enc2.av.r0.2.train/keep_idx_row0", 1, "keep_idx"),
        (TRAIN, "s5-4-4-3.enc2.av.r0.2.train/loss", 2e-5, "loss"),
        (TRAIN, "s5-4-4-3.enc2.av.r0.2.train/grad/model.compressor.ln.weight", 2e-5, "grad"),
        (TRAIN, "shared/position_ids", 1, "position_ids"),
        (TRAIN, "inputs/input_ids", 1, "input_ids"),
        (SOUND, "shared/inputs_embeds", 2e-4, "inputs_embeds"),
        (SOUND, "shared/s5-4-4-3.enc2/encoder_out", 2e-4, "encoder_out"),
        (SOUND, "s5-4-4-3.enc2.av.r0.2/gen_tokens", 1, "gen_tokens"),
        (SOUND, "s5-4-4-3.enc2.av.r0.2/gen_top5_ids", 1, "gen_top5_ids"),
        (SOUND, "s5-4-4-3.enc2.av.r0.2/logits", float("nan"), "logits"),
    ],
)
def test_one_wrong_number_of_the_model_is_found_and_named(
    case: str, name: str, by: float, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(REFERENCE, tmp_path / "set", (case,))
    change(folder / f"{case}.safetensors", name, by)
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(kind + " ") and "PAST THE BOUND" in line for line in lines)
    assert "FAILED" in lines[-1] and kind in lines[-1]


@pytest.mark.parametrize(
    ("name", "by"), [("input_ids", 1), ("position_ids", 1), ("pixel_values_videos", 2e-6), ("input_features", 2e-4)]
)
def test_one_wrong_number_of_the_processor_is_found_and_named(
    name: str, by: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(PROCESSOR, tmp_path / "set", ("audio_longer",))
    change(folder / "audio_longer.safetensors", name, by)
    assert main([str(folder)]) == 1
    assert any(x.startswith(name + " ") and "PAST" in x for x in capsys.readouterr().out.splitlines())


def test_one_wrong_number_of_seats_is_found_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    shutil.copytree(SEATS, folder)
    path = folder / "stage2_1.safetensors"
    tensors = load_file(path)
    tensors["keep"][100] ^= True
    save_file(tensors, path)
    change(folder / "stage1_2.safetensors", "kept_audio", 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["schedule"][0]["keep_at_each_drop_video"][1] += 2e-4
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    past = {line.split("  ")[0].strip(): line for line in lines if "PAST" in line}
    assert "stage1_2.safetensors, audio" in past["stage1 kept"] and "stage2_1" in past["stage2 keep"]
    assert "schedule 0, video" in past["schedule ratios"]
    assert past.keys() == {"stage2 keep", "schedule ratios", "stage1 kept"}


@pytest.mark.parametrize(("source", "case"), [(REFERENCE, SOUND), (PROCESSOR, "video_only")])
def test_a_tensor_of_an_unknown_name_is_not_passed_over(
    source: Path, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(source, tmp_path / "set", (case,))
    path = folder / f"{case}.safetensors"
    save_file({**load_file(path), "shared/mystery": torch.zeros(3)}, path)
    assert main([str(folder)]) == 1
    assert "shared/mystery was recorded and is not compared" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_one_clear_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.parity", "/no/such/folder"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "parity: no such folder: /no/such/folder\n"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no manifest.json in"),
        ({"manifest.json": "{"}, "is not JSON"),
        ({"manifest.json": "[]"}, "nothing to compare in"),
        ({"manifest.json": '{"cases": []}'}, "nothing to compare in"),
        ({"manifest.json": '{"a": 1}'}, "no known format"),
        ({"manifest.json": '{"cases": [{"file": "case_x.safetensors"}]}'}, "config.json is missing"),
        ({"manifest.json": '[{"name": "x"}]'}, "a case of the manifest lacks"),
    ],
)
def test_a_folder_that_cannot_be_compared_is_one_clear_line(
    files: dict[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_case_file_that_is_missing_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(REFERENCE, tmp_path / "set", (SOUND,))
    (folder / f"{SOUND}.safetensors").unlink()
    assert main([str(folder)]) == 2
    assert "case_audio_only.safetensors is missing" in capsys.readouterr().err


def test_without_a_folder_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage:")
