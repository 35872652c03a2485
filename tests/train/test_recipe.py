"""Recipes: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from echoingpixels.errors import DataError, OptionError
from echoingpixels.train.reading import read_recipe
from echoingpixels.train.recipe import Phase, Stage

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
STAGE = '[[stage]]\nname = "full"\ntask = "answers"\nsteps = 10\n'


def read(folder: Path, text: str) -> Stage:
    """The first stage of a recipe with this text."""
    path = folder / "r.toml"
    path.write_text(text)
    return read_recipe(path).stage[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_committed_recipes_read(path: Path) -> None:
    assert read_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sizes]\nwidht = 3\n", r"\[sizes\].*widht.*width"),
        (STAGE + "stepz = 3\n", r"stage.*stepz.*steps"),
        ("seeds = 3\n" + STAGE, r"seeds.*seed"),
        (STAGE.replace("10", '"many"'), r"steps = 'many'.*int"),
        (STAGE.replace("10", "true"), r"steps = True.*int"),
        (STAGE + "lr = '1'\n", r"lr = '1'.*float"),
        (STAGE + "share = 0.5\n", r"share = 0.5.*list.*float"),
        (STAGE + 'share = ["a"]\n', r"share = 'a'.*float"),
        (STAGE.replace("answers", "answer"), r"task = 'answer'.*towers, answers, distil, sieve"),
        (STAGE + 'gate = "hard"\n', r"gate = 'hard'.*straight-through, gumbel, soft"),
        (STAGE + 'train = ["head"]\n', r"train = 'head'.*towers, decoder, sieve"),
        (STAGE + "[stage.lora]\nrnak = 3\n", r"\[lora\].*rnak.*rank"),
        ('[[stage]]\nname = "full"\n', r"lacks task"),
        ('log = "wandb"\n' + STAGE, r"log = 'wandb'.*csv, tensorboard"),
        ("stage = 3\n", r"stage = 3.*list"),
        ("", "no stage"),
        ("steps =", "no recipe"),
        (STAGE + STAGE, "Two stages are named 'full'"),
        (STAGE.replace("full", "bank"), "'bank' cannot have that name"),
        (STAGE.replace("full", "../x"), "cannot have that name"),
        (STAGE.replace("10", "0"), "steps = 0"),
        (STAGE + "batch = 0\n", "batch = 0"),
        (STAGE + "share = []\n", "empty list"),
        (STAGE + "focus = 0.5\n", "focus = 0.5"),
        (STAGE + "distil_weight = 1.0\n", 'distil_weight = 1.*gate = "soft"'),
        (STAGE + 'gate = "soft"\ndistil_weight = -1.0\n', "distil_weight = -1"),
        ('quant = "nf5"\n' + STAGE, r"quant = 'nf5'.*none, nf4, int8"),
        ("gpu_gb = true\n" + STAGE, r"gpu_gb = True.*float"),
        ("gpus = 0\n" + STAGE, r"gpus = 0"),
        ("[data]\nmax_length = 0\n" + STAGE, r"max_length = 0"),
        ('[data]\ntoo_long = "drop"\n' + STAGE, r"too_long = 'drop'.*skip, cut"),
        (STAGE + 'precision = "float16"\n', r"precision = 'float16'.*float32, bfloat16"),
        (STAGE + "temperature = [0.8, 0]\n", r"temperature = \[0.8, 0.0\]"),
        (STAGE + 'train = ["sieve"]\n', "task answers, cannot train sieve"),
        (STAGE.replace("answers", "distil") + 'train = ["sieve", "decoder"]\n', "cannot train sieve, decoder"),
        (STAGE.replace("answers", "sieve") + 'train = ["decoder"]\n', "cannot train decoder"),
        (STAGE.replace("answers", "sieve") + 'train = ["sieve"]\n[stage.lora]\n', "frozen decoder"),
        (STAGE + STAGE.replace("full", "t").replace("answers", "towers"), "towers is only for the first stage"),
        ('model = "tiny"\n' + STAGE.replace("answers", "towers"), "towers is only for the first stage"),
        ('[data]\ntrain = "a"\n' + STAGE.replace("answers", "towers"), "towers is only for the first stage"),
    ],
)
def test_what_no_recipe_can_say_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, text)


def test_a_ratio_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="outside"):
        read(tmp_path, STAGE + "keep = [0.5, 2]\n")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recipe"):
        read_recipe(tmp_path / "none.toml")


def test_the_parts_that_learn_follow_from_the_task(tmp_path: Path) -> None:
    assert read(tmp_path, STAGE).learns == ("decoder",)
    assert read(tmp_path, STAGE.replace("answers", "distil")).learns == ("sieve",)
    assert read(tmp_path, STAGE.replace("answers", "sieve")).learns == ("sieve", "decoder")
    assert read(tmp_path, STAGE.replace("answers", "sieve") + 'train = ["sieve"]\n').learns == ("sieve",)


def test_keep_ratios_are_one_list_or_a_schedule(tmp_path: Path) -> None:
    assert read(tmp_path, STAGE + "keep = [0.5, 1]\n").keep == (Phase(1.0, (0.5, 1.0)),)
    stage = read(tmp_path, STAGE + "keep = [[0.3, [0.5]], [1.0, [0.2, 0.1]]]\n")
    assert [stage.ratios(step) for step in (0, 2, 3, 9, 12)] == [(0.5,), (0.5,), (0.2, 0.1), (0.2, 0.1), (0.2, 0.1)]


def test_paths_are_found_from_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[data]\ntrain = "rows.jsonl"\n' + STAGE)
    assert read_recipe(path).data.train == tmp_path / "rows.jsonl"
