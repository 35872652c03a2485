"""Task views: the vision tower learns to see parts and coarse pictures as it saw the whole."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echoingpixels.datasets.questions import Row
from echoingpixels.errors import DataError
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.patches import Resolution
from echoingpixels.train.recipe import Data, Stage
from echoingpixels.train.run import train_model
from echoingpixels.train.views import Seeing, Views, covering, drawn_clips, own_clips
from tests.support import clips, tinymodel
from tests.support.smalltrain import FULL, TOWERS, recipe
from tests.train.test_train_stages import changed, weights

VIEWS = Stage("views", "views", steps=3, batch=2, moments=2, save_every=2, lr=0.01)
RESOLUTION = Resolution.plain(112 * 168)


def test_a_part_is_cells_or_windows_and_never_nothing() -> None:
    views = Views(replace(VIEWS, steps=30), 5, drawn_clips(5, VIEWS), RESOLUTION)
    shares = []
    for item in range(30):
        for view, again in zip(views[item], views[item], strict=True):
            patches, (steps, height, width) = view["whole"]
            assert torch.equal(patches, again["whole"][0]) and torch.equal(view["part"], again["part"])
            assert view["part"].shape == (steps * height * width // 4,) and bool(view["part"].any())
            coarse = view["coarse"][1]
            assert coarse[0] == steps and coarse[1:] == (2 * -(-height // 4), 2 * -(-width // 4))
            shares.append(float(view["part"].float().mean()))
    assert min(shares) < 0.3 and max(shares) > 0.7


@torch.no_grad()
def test_the_whole_is_seen_as_before_until_something_is_learned() -> None:
    seeing = Seeing(tinymodel.backbone())
    (view,) = Views(replace(VIEWS, batch=1), 5, drawn_clips(5, VIEWS), RESOLUTION)[0]
    _, errors = seeing.loss([view])
    assert errors["whole"] == 0 and errors["coarse"] > 0
    _, errors = seeing.loss([{**view, "part": torch.ones_like(view["part"])}])
    assert errors["part"] == 0


def test_a_coarse_cell_is_to_be_the_one_of_its_four_that_stands_out() -> None:
    fine = torch.zeros(2, 3, 5, 8)
    fine[0, 1, 2] = 3.0  # in the first row of coarse cells, in the second column
    fine[1, 2, 4] = 5.0  # where rows and columns are odd: the edge is repeated
    made = covering(fine).view(2, 2, 3, 8)
    others = torch.ones(2, 2, 3, dtype=torch.bool)
    for place, value in (((0, 0, 1), 3.0), ((1, 1, 2), 5.0)):
        torch.testing.assert_close(made[place], torch.full((8,), value), rtol=0, atol=0.05)
        others[place] = False
    assert float(made[others].abs().max()) == 0


def test_the_stage_changes_the_vision_tower_alone_and_resumes(tmp_path: Path) -> None:
    whole = recipe(TOWERS, FULL, VIEWS)
    train_model(whole, tmp_path, ("towers", "bank", "full"))
    halted = recipe(TOWERS, FULL, replace(VIEWS, steps=2))
    train_model(halted, tmp_path, ("views",))
    train_model(whole, tmp_path, ("views",))
    with (tmp_path / "views.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3"] and {"whole", "part", "coarse"} <= rows[0].keys()
    assert changed(weights(tmp_path / "full" / "model"), weights(tmp_path / "views" / "model")) == {"visual"}


def test_a_model_that_only_learns_views_needs_no_bank(tmp_path: Path) -> None:
    model = train_model(recipe(replace(VIEWS, steps=1), model="tiny"), tmp_path)
    assert not (tmp_path / "bank").exists()
    assert load(str(model)).sieve is not None  # which it came with


def test_own_clips_are_drawn_and_a_broken_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips.write(tmp_path / "a.mp4", clips.Film(seconds=3.0, size=(240, 320)))
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    rows = [Row(name, tmp_path / f"{name}.mp4", "What?", "") for name in ("a", "broken")]
    pictures = own_clips(rows, Data(), VIEWS, RESOLUTION)
    drawn = [pictures(i, np.random.default_rng(i)) for i in range(8)]
    assert (
        {len(one) for one in drawn} == {4}
        and drawn[0][0, :, :, 0].size <= RESOLUTION.video_max
        and len({one.tobytes() for one in drawn}) > 1
    )
    assert "broken.mp4" in capsys.readouterr().out
    with pytest.raises(DataError, match="no picture"):
        own_clips(rows[1:], Data(), VIEWS, RESOLUTION)(0, np.random.default_rng(0))


def test_a_recipe_trains_views_on_own_clips(tmp_path: Path) -> None:
    clips.write(tmp_path / "a.mp4", clips.Film(seconds=2.0))
    (tmp_path / "q.jsonl").write_text(json.dumps({"media": "a.mp4", "question": "What?", "answer": "that"}))
    wanted = recipe(replace(VIEWS, steps=1), model="tiny", data=Data(train=tmp_path / "q.jsonl"))
    assert (train_model(wanted, tmp_path / "out") / "model.safetensors").exists()
