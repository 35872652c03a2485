"""Task sharpen: the vision encoder learns to classify objects better through heads fitted to its features."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echoingpixels.errors import DataError
from echoingpixels.from_pretrained import load
from tests.support.smalltrain import DISTIL, ENCODERS, FULL, SMALL, recipe, train
from tests.train.test_train_stages import changed, weights
from tools.tiny.bank import Reader, example
from tools.tiny.encoders import Batches
from tools.tiny.recipe import TinyData, TinyRecipe, TinyStage
from tools.tiny.sharpen import Sharpened

SHARPEN = TinyStage("sharpen", "sharpen", steps=3, batch=2, moments=2, save_every=2, lr=0.001)


def test_fitted_heads_classify_the_objects_and_are_held() -> None:
    tiny = load("tiny", reuse=None)
    batches = Batches(replace(SHARPEN, batch=12), 5, tiny.backbone.resolution, sound=False)
    assert "mel" not in batches[0]
    sharpened = Sharpened(tiny.backbone, (batches[i] for i in range(8)))  # type: ignore[arg-type]
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as in training
        loss, figures = sharpened.loss(batches[0])
    assert figures["object_found"] > 0.8 and figures["moved"] == 0  # of 24 objects, and nothing
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for weight in sharpened.heads.parameters())
    assert all(weight.grad is not None for weight in sharpened.visual.parameters())
    fitted = sharpened.heads.object.weight.clone()
    with torch.no_grad():
        sharpened.visual.merger.mlp[-1].weight.mul_(1.1)
    assert sharpened.loss(batches[1])[1]["moved"] > 0 and torch.equal(sharpened.heads.object.weight, fitted)


def test_the_stage_changes_the_vision_encoder_alone_and_resumes(tmp_path: Path) -> None:
    whole = recipe(ENCODERS, FULL, SHARPEN)
    train(whole, tmp_path, ("encoders", "bank", "full"))
    train(recipe(ENCODERS, FULL, replace(SHARPEN, steps=2)), tmp_path, ("sharpen",))
    train(whole, tmp_path, ("sharpen",))
    assert changed(weights(tmp_path / "full" / "model"), weights(tmp_path / "sharpen" / "model")) == {"visual"}
    with (tmp_path / "sharpen.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3"] and {"object_found", "moved"} <= rows[0].keys()


def test_the_bank_holds_features_of_the_sharpened_encoder(tmp_path: Path) -> None:
    small = replace(SHARPEN, steps=1, lr=0.01)
    train(recipe(small, replace(DISTIL, steps=1, layers=2), model="tiny"), tmp_path)
    backbone: Any = load(str(tmp_path / "sharpen" / "model"), reuse=None).backbone
    (kept, *_) = Reader(tmp_path / "bank", SMALL.seed).draw(np.random.default_rng(0), 1)
    after = example(backbone, SMALL.seed, kept.index, 1).features.video
    before = example(load("tiny", reuse=None).backbone, SMALL.seed, kept.index, 1).features.video  # type: ignore[arg-type]
    assert kept.features.video is not None and after is not None and before is not None
    new, old = ((kept.features.video.float() - video.float()).norm() for video in (after, before))
    assert new < 0.1 * old


def test_a_stage_after_a_sharpened_encoder_learns_from_its_features(tmp_path: Path) -> None:
    small = replace(SHARPEN, steps=1, lr=0.01)
    train(recipe(ENCODERS, replace(FULL, steps=1), small, replace(DISTIL, steps=1)), tmp_path)
    stems = {path.stem.split("-")[-1] for path in (tmp_path / "bank").glob("*.safetensors")}
    assert len(stems) == 2  # features of the encoder before, and after


def test_own_clips_have_no_timelines() -> None:
    with pytest.raises(DataError, match="SyncClips alone"):
        TinyRecipe(stage=(SHARPEN,), model="tiny", data=TinyData(train=Path("q.jsonl")))
