"""Recipes: reading and validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echoingpixels.errors import DataError, OptionError
from echoingpixels.train.recipe import Phase, Recipe, Stage, read_recipe
from tools.tiny.recipe import TinyRecipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
TINY = ("tiny",)
HEAD = 'model = "tiny"\n'
DATA = '[data]\ntrain = "rows.jsonl"\n'
STAGE = '[[stage]]\nname = "full"\ntask = "answers"\nsteps = 10\n'
ENCODERS = STAGE.replace("full", "first").replace("answers", "encoders")


def read(folder: Path, text: str) -> Stage:
    """The first stage of a recipe with this text."""
    path = folder / "r.toml"
    path.write_text(text if "[data]" in text else HEAD + text + DATA)
    return read_recipe(path).stage[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_committed_recipes_read(path: Path) -> None:
    assert read_recipe(path, TinyRecipe if path.stem in TINY else Recipe).name == path.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STAGE + "stepz = 3\n", r"\[stage\] 1, has an unknown key 'stepz'.*accumulate.*steps"),
        ("seeds = 3\n" + STAGE, r"seeds.*seed"),
        (STAGE.replace("10", '"many"'), r"steps = 'many'.*integer"),
        (STAGE.replace("10", "true"), r"steps = True.*integer"),
        (STAGE + "lr = '1'\n", r"lr = '1'.*number"),
        (STAGE + "share = 0.5\n", r"share = 0.5.*array"),
        (STAGE + 'share = ["a"]\n', r"share = 'a'.*number"),
        (STAGE + "keep = 0.5\n", r"\[stage\] 1, has keep = 0.5.*array"),
        (STAGE + 'keep = [[0.3, ["a"]]]\n', r"\[stage\] 1, has keep = 'a'.*number"),
        (STAGE.replace("answers", "answer"), r"task = 'answer'.*'answers', 'distil' or 'sieve'"),
        (STAGE + 'gate = "hard"\n', r"gate = 'hard'.*'straight-through', 'gumbel' or 'soft'"),
        (STAGE + 'train = ["head"]\n', r"train = 'head'.*'decoder' or 'sieve'"),
        (STAGE + "[stage.lora]\nrnak = 3\n", r"\[stage.lora\] 1, .*rnak.*rank"),
        (STAGE + STAGE.replace("full", "more") + "lora = 3\n", r"\[stage\] 2, has lora = 3.*object"),
        ('[[stage]]\nname = "full"\n', r"lacks task"),
        ('log = "wandb"\n' + STAGE, r"log = 'wandb'.*'csv' or 'tensorboard'"),
        ("stage = 3\n", r"stage = 3.*array"),
        ("", "no stage"),
        ("steps =", "not a recipe"),
        (STAGE + STAGE, "Two stages are named 'full'"),
        (STAGE.replace("full", "bank"), "'bank' is not a valid name"),
        (STAGE.replace("full", "../x"), "is not a valid name"),
        (STAGE.replace("10", "0"), "steps = 0"),
        (STAGE + "batch = 0\n", "batch = 0.*greater than or equal to 1"),
        (STAGE + "share = []\n", "empty list"),
        (STAGE + "keep = []\n", "empty list"),
        (STAGE + "focus = 0.5\n", "focus = 0.5"),
        (STAGE + "distil_weight = 1.0\n", 'distil_weight = 1.*gate = "soft"'),
        (STAGE + 'gate = "soft"\ndistil_weight = -1.0\n', "distil_weight = -1"),
        ('quant = "nf5"\n' + STAGE, r"quant = 'nf5'.*'none', 'nf4' or 'int8'"),
        ("gpu_gb = true\n" + STAGE, r"gpu_gb = True.*number"),
        ("gpus = 0\n" + STAGE, r"gpus = 0"),
        (HEAD + DATA + "max_length = 0\n" + STAGE, r"\[data\], has max_length = 0"),
        (HEAD + DATA + 'too_long = "drop"\n' + STAGE, r"too_long = 'drop'.*'skip' or 'cut'"),
        (HEAD + DATA + "widht = 3\n" + STAGE, r"\[data\], has an unknown key 'widht'.*max_pixels"),
        (HEAD + "[data]\n" + STAGE, "names no questions"),
        (DATA + STAGE, "names no model"),
        (STAGE + 'precision = "float16"\n', r"precision = 'float16'.*'float32' or 'bfloat16'"),
        (STAGE + "temperature = [0.8, 0]\n", r"temperature = \[0.8, 0.0\]"),
        (STAGE + 'train = ["sieve"]\n', "task answers, cannot train sieve"),
        (STAGE.replace("answers", "distil") + 'train = ["sieve", "decoder"]\n', "cannot train sieve, decoder"),
        (STAGE.replace("answers", "sieve") + 'train = ["decoder"]\n', "cannot train decoder"),
        (STAGE.replace("answers", "sieve") + 'train = ["sieve"]\n[stage.lora]\n', "frozen decoder"),
    ],
)
def test_an_invalid_recipe_is_one_error_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sizes]\nwidht = 3\n" + STAGE, r"\[sizes\], has an unknown key 'widht'.*width"),
        (STAGE + ENCODERS, "encoders is only for the first stage"),
        (HEAD + ENCODERS, "encoders is only for the first stage"),
        (DATA + ENCODERS, "encoders is only for the first stage"),
        (STAGE.replace("answers", "towers"), r"'encoders', 'answers', 'distil' or 'sieve'"),
        (ENCODERS + 'train = ["decoder"]\n', "task encoders, cannot train decoder"),
        ('quant = "nf4"\n' + STAGE.replace("answers", "distil"), "needs a pretrained model"),
    ],
)
def test_an_invalid_recipe_of_the_tiny_model_is_one_error_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_recipe(path, TinyRecipe)


TASKS = st.sampled_from(["answers", "distil", "sieve"])
VALUES = {
    "lr": st.floats(1e-6, 1e-2),
    "batch": st.integers(1, 64),
    "share": st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    "optimizer": st.sampled_from(["adamw", "muon"]),
    "gate": st.sampled_from(["straight-through", "gumbel", "soft"]),
    "bidirectional": st.booleans(),
}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task=TASKS, values=st.fixed_dictionaries({}, optional=VALUES))
def test_a_stage_has_the_values_of_its_table(tmp_path: Path, task: str, values: dict[str, Any]) -> None:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    stage = read(tmp_path, STAGE.replace("answers", task) + lines)
    assert stage == Stage("full", task, 10, **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})  # type: ignore[arg-type]


def test_a_ratio_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="outside"):
        read(tmp_path, STAGE + "keep = [0.5, 2]\n")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: no such file") as error:
        read_recipe(tmp_path / "none.toml")
    assert error.value.hint == "Check the path."
    (tmp_path / "text.toml").write_text("not TOML")
    with pytest.raises(DataError, match="not a recipe"):
        read_recipe(tmp_path / "text.toml")


def test_the_parts_that_learn_follow_from_the_task(tmp_path: Path) -> None:
    assert read(tmp_path, STAGE).learns == ("decoder",)
    assert read(tmp_path, STAGE.replace("answers", "distil")).learns == ("sieve",)
    assert read(tmp_path, STAGE.replace("answers", "sieve")).learns == ("sieve", "decoder")
    assert read(tmp_path, STAGE.replace("answers", "sieve") + 'train = ["sieve"]\n').learns == ("sieve",)


def test_keep_ratios_are_one_list_or_a_schedule(tmp_path: Path) -> None:
    assert read(tmp_path, STAGE + "keep = [0.5, 1]\n").keep == (Phase(1.0, (0.5, 1.0)),)
    stage = read(tmp_path, STAGE + "keep = [[0.3, [0.5]], [1.0, [0.2, 0.1]]]\n")
    assert [stage.ratios(step) for step in (0, 2, 3, 9, 12)] == [(0.5,), (0.5,), (0.2, 0.1), (0.2, 0.1), (0.2, 0.1)]


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(HEAD + DATA + STAGE)
    assert read_recipe(path).data.train == tmp_path / "rows.jsonl"
