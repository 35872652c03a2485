"""tools.validate compares reducers on a run's held-out clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from echoingpixels.from_pretrained import load
from echoingpixels.train.examples import Example, batch
from echoingpixels.train.recipe import BANK
from tools.tiny.bank import ClipSet, Reader, fill
from tools.tiny.run import VALID_SEED
from tools.validate import Row, chosen_by, line, main, rows

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
    asked = ["--reducer", "maxmin", "--reducer", "within:0.2", "--keep", "0.2", "--against", "uniform"]
    result = CliRunner().invoke(app, [str(bank), "--model", "tiny", "--recipe", str(bank / "recipe.toml"), *asked])
    assert result.exit_code == 0, result.output
    found = result.output.splitlines()
    assert [text.split()[0] for text in found] == ["full", "maxmin", "within:0.2"]
    assert "v1" in found[1] and "busy" in found[1] and " to " in found[1]


@torch.no_grad()
def test_an_adaptive_budget_leaves_no_token_farther_than_epsilon(examples: list[Example]) -> None:
    model = load("tiny", device="cpu", reuse=None)
    stream = batch(model.backbone, [(one, one.questions[:1]) for one in examples]).stream  # type: ignore[arg-type]
    few, many = (chosen_by(f"within:{epsilon}") for epsilon in (0.4, 0.15))
    kept = [reducer.choose(model.backbone, None, stream, 0.9).keep & stream.pool for reducer in (few, many)]
    assert bool((kept[0].sum(1) < kept[1].sum(1)).all()) and not bool((kept[0] & ~kept[1]).any())
    for row in range(len(examples)):
        unit = F.normalize(stream.embeds[row].float(), dim=-1)
        dropped = stream.pool[row] & ~kept[0][row]
        far = (1 - unit[dropped] @ unit[kept[0][row]].T).amin(1)
        assert float(far.max()) <= 0.4 + 1e-4


def test_rows_are_right_where_the_answer_is(examples: list[Example]) -> None:
    model = load("tiny", device="cpu", reuse=None)
    found = list(rows(model, examples, chosen_by("full"), 1.0, 2))
    assert len(found) == sum(min(2, len(one.questions)) for one in examples)
    assert all(row.kept == row.pool >= row.audio for row in found)
    text = line([Row(1, "busy", "where", True, 4, 1, 10), Row(2, "listen", "word", False, 4, 3, 10)], None)
    assert "v1   0.0 (audio 75 %)" in text and "busy 100.0 (audio 25 %)" in text and "both  50.0" in text
    assert torch.tensor([row.right for row in found]).float().mean() > 0.5
