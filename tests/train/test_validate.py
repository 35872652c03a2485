"""tools.validate compares reducers on a run's held-out clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from echoingpixels.from_pretrained import load
from echoingpixels.reducers.registry import REDUCERS
from echoingpixels.train.examples import Example
from echoingpixels.train.recipe import BANK
from tools.tiny.bank import ClipSet, Reader, fill
from tools.tiny.run import VALID_SEED
from tools.validate import Row, line, main, rows

RECIPE = """
[data]
valid_clips = 4
questions = 3
[[stage]]
name = "decoder"
task = "answers"
steps = 1
"""


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    on = load("tiny", device="cpu", reuse=None).backbone
    fill(on, out / BANK, ClipSet(VALID_SEED, 4, 4, 3))  # type: ignore[arg-type]
    (out / "recipe.toml").write_text(RECIPE)
    return out


@pytest.fixture(scope="module")
def examples(bank: Path) -> list[Example]:
    reader = Reader(bank / BANK, VALID_SEED)
    reader.refresh()
    return reader.examples


def test_each_reducer_gets_a_line_with_its_difference(bank: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(main)
    asked = ["--reducer", "maxmin", "--reducer", "cs2-maxmin", "--keep", "0.2", "--against", "uniform"]
    result = CliRunner().invoke(app, [str(bank), "--model", "tiny", "--recipe", str(bank / "recipe.toml"), *asked])
    assert result.exit_code == 0, result.output
    found = result.output.splitlines()
    assert [text.split()[0] for text in found] == ["full", "maxmin", "cs2-maxmin"]
    assert "v1" in found[1] and "busy" in found[1] and " to " in found[1]


def test_rows_are_right_where_the_answer_is(examples: list[Example]) -> None:
    model = load("tiny", device="cpu", reuse=None)
    found = list(rows(model, examples, REDUCERS["full"], 1.0, 2))
    assert len(found) == sum(min(2, len(one.questions)) for one in examples)
    assert all(row.kept == row.pool >= row.audio for row in found)
    text = line([Row(1, "busy", "where", True, 4, 1, 10), Row(2, "listen", "word", False, 4, 3, 10)], None)
    assert "v1   0.0 (audio 75 %)" in text and "busy 100.0 (audio 25 %)" in text and "both  50.0" in text
    assert torch.tensor([row.right for row in found]).float().mean() > 0.5
