"""Training in several processes, sharded (FSDP) and replicated (DDP), on two CPUs with gloo."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from echoingpixels.from_pretrained import load, save
from echoingpixels.model import EchoingPixels
from echoingpixels.train.recipe import read_recipe
from echoingpixels.train.run import train_model
from tests.support import clips
from tests.support.sharding import CONFIG, fsdp, launch
from tests.support.smalltrain import SIZES
from tools.tiny.build import build_backbone

RECIPE = """
name = "small"
model = "base"
checkpointing = true
[data]
train = "rows.jsonl"
[[stage]]
name = "full"
task = "sieve"
form = "fused"
layers = 1
keep = [0.5]
steps = {steps}
epochs = 1
batch = 1
accumulate = {accumulate}
lr = 1e-3
save_every = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, two clips and rows about them, and recipes of two steps for one and for two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    torch.manual_seed(0)
    save(EchoingPixels(build_backbone(SIZES, "small")), folder / "base")
    clips.write(folder / "a.mp4", clips.Film(seconds=3.0, tracks=(clips.Track(clips.beep(3.0, 1.0)),)))
    clips.write(folder / "b.mp4", clips.Film(seconds=4.0))
    rows = [{"media": f"{clip}.mp4", "question": f"What {n}?", "answer": "a cat"} for clip in "ab" for n in range(2)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, accumulate in (("one", 2), ("two", 1)):
        text = RECIPE.format(steps=2, accumulate=accumulate).replace('"base"', f'"{folder / "base"}"')
        (folder / f"{name}.toml").write_text(text)
        (folder / f"{name}-longer.toml").write_text(text.replace("steps = 2", "steps = 4"))
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The result of one process, with two rows a step."""
    return train_model(read_recipe(folder / "one.toml"), folder / "alone")


def weights(model: Path) -> dict[str, Tensor]:
    return load_file(model / "model.safetensors") | load_file(model / "sieve" / "sieve.safetensors")


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_two_processes_learn_what_one_learns_from_their_rows(kind: str, folder: Path, alone: Path) -> None:
    out = folder / kind
    launch(kind, 2, folder / "two.toml", "--out", out)
    base, expected, found = (weights(one) if one != folder / "base" else load_file(one / "model.safetensors")
                             for one in (folder / "base", alone, out / "model"))  # fmt: skip
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=4e-3, rtol=2e-2)
    moved = [float((found[name] - base[name]).abs().max()) for name in base if "layers.1.mlp" in name]
    assert min(moved) > 1e-4
    assert load(str(out / "model"), device="cpu").sieve is not None
    with (out / "full.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2"]
    sharded = out / "full" / "checkpoint-2" / "pytorch_model_fsdp.bin"
    assert sharded.exists() == (kind == "fsdp")


def test_a_sharded_run_resumes_from_its_checkpoint(folder: Path) -> None:
    out = folder / "resumed"
    launch("fsdp", 2, folder / "two.toml", "--out", out)
    launch("fsdp", 2, folder / "two-longer.toml", "--out", out)
    with (out / "full.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    assert (out / "model").resolve() == (out / "full" / "model").resolve()


def test_accelerate_reads_the_configuration() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(CONFIG))
    known = {action.dest for action in launch_command_parser()._actions}
    assert config.distributed_type == "FSDP" and config.num_processes == 4 and set(config.fsdp_config) <= known
    assert fsdp()["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert fsdp()["FSDP_TRANSFORMER_CLS_TO_WRAP"] in {
        type(layer).__name__ for layer in build_backbone(SIZES, "small").text.layers
    }
