"""Calibration of a sieve, and `--keep auto` with a calibrated sieve, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as properties
from hypothesis import strategies as st
from torch import Tensor

from echoingpixels.checkpoints.loading import ASSETS, KNOWN
from echoingpixels.checkpoints.sieve_io import SIEVE_CONFIG, read_sieve_options
from echoingpixels.datasets.questions import Row
from echoingpixels.errors import DataError, ModelError
from echoingpixels.evaluation import evaluate as scoring
from echoingpixels.evaluation.calibrate import (
    MIN_QUESTIONS,
    PRICES,
    calibrate,
    isotonic,
    learned,
    sieve_to_write,
    write_calibration,
)
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.from_pretrained import load
from echoingpixels.media import stream_clip
from echoingpixels.media.clip import Pieces
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, Auto, GenerateOptions, LoadOptions
from echoingpixels.planning.meta_model import outline
from echoingpixels.planning.plan import plan
from echoingpixels.reducers.adaptive import LEAST, MOST, RATIOS, Enough
from echoingpixels.reducers.setting import settings
from tests.support import tinymodel
from tests.support.program import Program

SHORT = GenerateOptions(max_new_tokens=2)
TABLE = ((0.9, 2.0), (1.0, 0.2))


VALUES = st.lists(st.integers(0, 20).map(lambda n: n / 4), min_size=1, max_size=8)


@properties(deadline=None, max_examples=100)
@given(VALUES, VALUES)
def test_the_isotonic_fit_is_the_nearest_ascending_sequence(values: list[float], other: list[float]) -> None:
    fitted = np.array(isotonic(values))
    assert (np.diff(fitted) >= -1e-9).all() and fitted.mean() == pytest.approx(np.mean(values))
    ascending = np.sort(np.resize(other, len(values)))
    assert ((fitted - values) ** 2).sum() <= ((ascending - values) ** 2).sum() + 1e-9
    assert isotonic(list(ascending)) == pytest.approx(list(ascending))


def test_an_isotonic_fit_averages_neighbours_that_descend() -> None:
    assert isotonic([1, 4, 1, 1, 5]) == pytest.approx([1, 2, 2, 2, 5])


def answered(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Easy and hard questions, which the first of three features separates; hard ones need a fifth of the tokens."""
    random = torch.Generator().manual_seed(seed)
    known = torch.randn(n, 3, generator=random)
    hard = known[:, :1] > 0
    chance = torch.where(hard, 0.1 + 0.8 * (torch.tensor(RATIOS) >= 0.2), 0.9)  # (N, R)
    return known, torch.rand(n, len(RATIOS), generator=random) < chance


def test_hard_questions_get_more_tokens() -> None:
    known, right = answered(900)
    found = learned(known, right, 0.9)
    assert [point.price for point in found.points] == list(PRICES)
    enough = found.enough
    fresh, asked = answered(600, seed=1)
    price = enough.price(Auto(0.95))
    ratios = torch.tensor(enough.ratios(fresh, price))
    assert ratios[fresh[:, 0] < -0.3].mean() < 0.08 < 0.15 < ratios[fresh[:, 0] > 0.3].mean()
    got = asked[torch.arange(600), [RATIOS.index(ratio) for ratio in enough.ratios(fresh, price)]].float().mean()
    same_cost = max(i for i, ratio in enumerate(RATIOS) if ratio <= float(ratios.mean()) + 0.02)
    assert float(got) > float(asked[:, same_cost].float().mean()) + 0.1, "better than one ratio for all"
    assert float(got) == pytest.approx(0.95 * 0.9, abs=0.06), "and the requested quality"


def test_questions_with_equal_features_get_one_ratio() -> None:
    _, right = answered(900)
    found = learned(torch.ones(900, 3), right, 0.9).enough
    assert len(set(found.ratios(torch.ones(5, 3), 1.0))) == 1


def test_every_ratio_is_measured_in_one_pass(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tinymodel.model(tau=0.3)
    rows = [Row(f"q{i}", film, f"Who {i}?", "cat") for i in range(MIN_QUESTIONS)]
    read: list[Path] = []

    def reader(path: Path, *rest: Any, **options: Any) -> Pieces:
        read.append(path)
        return stream_clip(path, *rest, **options)

    monkeypatch.setattr(scoring, "is_right", lambda answer, expected: True)
    asked: list[float] = []
    found = calibrate(
        model, rows, generate=SHORT, on_outcome=lambda one: asked.append(one.setting.ratio), reader=reader
    )
    assert len(read) == 1 and sorted(set(asked)) == [*RATIOS, 1.0] and len(asked) == MIN_QUESTIONS * (len(RATIOS) + 1)
    assert found.accuracy == 1.0 and {point.accuracy for point in found.points} == {1.0}
    assert found.enough.table == ((1.0, PRICES[0]),) and len(found.enough.level) == model.backbone.shape.width + 3
    assert model.sieve is not None and model.sieve.options.auto is None, "the model is unchanged"
    calibrated = tinymodel.model(tau=0.3, auto=found.enough)
    (run,) = evaluate(calibrated, rows, settings(["cs2"], [Auto(0.5)]), generate=SHORT)
    assert run.tokens.kept_ratio == pytest.approx(LEAST, abs=0.01), (
        "more tokens do not help, so each question gets the fewest"
    )


def test_a_calibration_needs_a_sieve_and_right_answers(film: Path) -> None:
    rows = [Row("q", film, "Who?", "an answer that no model gives")]
    with pytest.raises(DataError, match="No question is answered right"):
        calibrate(tinymodel.model(), rows, generate=SHORT)
    with pytest.raises(ModelError, match="no sieve"):
        calibrate(EchoingPixels(tinymodel.backbone()), rows)


@pytest.fixture
def sieve(tiny: str, tmp_path: Path) -> Path:
    """The bundled sieve, calibrated by hand."""
    folder = tmp_path / "sieve"
    shutil.copytree(Path(KNOWN.get(tiny, tiny)) / "sieve", folder)
    enough = Enough((3.0, *(0.0,) * (width_of(tiny) + 2)), (1.0, *(0.0,) * (width_of(tiny) + 2)), 0.0, TABLE)
    write_calibration(folder, enough)
    return folder


def width_of(model: str) -> int:
    config: dict[str, Any] = json.loads((Path(KNOWN.get(model, model)) / "config.json").read_text())
    return int(config["text_config"]["hidden_size"])


def test_the_command_writes_what_ask_and_evaluate_read(tiny: str, film: Path, tmp_path: Path, ep: Program) -> None:
    question, out = "Which object appears first?", tmp_path / "calibrated"
    answer = ep("ask", film, question, "--model", tiny, "--reducer", "full").out.strip()
    data = film.parent / f"{tmp_path.name}.jsonl"
    asked = [{"id": f"q{i}", "media": film.name, "question": question, "answer": answer} for i in range(MIN_QUESTIONS)]
    data.write_text("\n".join(map(json.dumps, asked)) + "\n")
    done = ep("calibrate", data, "--model", tiny, "--out", out, "--json", "--max-new-tokens", "8")
    report = json.loads(done.out)
    assert done.code == 0 and report["sieve"] == str(out) and len(report["points"]) == len(PRICES)
    written = read_sieve_options(out).auto
    assert written is not None and written.table[-1][0] == max(round(p["quality"], 4) for p in report["points"])
    assert set(report) == {"model", "data", "sieve", "accuracy", "points"}

    data.write_text(json.dumps(asked[0]) + "\n")
    few = ep("calibrate", data, "--model", tiny, "--sieve", out, "--max-new-tokens", "8")
    assert few.code == 1 and f"at least {MIN_QUESTIONS}" in few.err and read_sieve_options(out).auto == written

    once = json.loads(ep("ask", film, question, "--sieve", out, "--keep", "auto", "--json").out)
    assert once["keep"] == "auto:0.98" and LEAST <= once["tokens"]["kept_ratio"] <= MOST + 0.01
    scored = ep("evaluate", data, "--sieve", out, "--keep", "1,auto,auto:0.5,0.2", "--json", "--max-new-tokens", "8")
    runs = json.loads(scored.out)["runs"]
    assert [run["keep"] for run in runs] == [1.0, "auto:0.98", "auto:0.5", 0.2]
    assert runs[1]["tokens"]["kept_ratio"] == once["tokens"]["kept_ratio"]
    assert "auto:0.5" in ep("evaluate", data, "--sieve", out, "--keep", "auto:0.5", "--max-new-tokens", "2").out


def test_a_calibration_of_the_older_kind_counts_as_none(sieve: Path, film: Path, ep: Program) -> None:
    about = json.loads((sieve / "sieve.json").read_text())
    (sieve / "sieve.json").write_text(json.dumps({**about, "auto": [[0.9, 0.2], [1.0, 0.6]]}))
    assert read_sieve_options(sieve).auto is None
    done = ep("ask", film, "Who?", "--sieve", sieve, "--keep", "auto")
    assert done.code == 1 and "ep calibrate" in done.err


def test_a_quality_out_of_reach_is_reported_in_one_line(sieve: Path, film: Path, ep: Program) -> None:
    done = ep("ask", film, "Who?", "--sieve", sieve, "--keep", "auto:0.5", "--max-new-tokens", "2", "--json")
    (note,) = [line for line in done.err.splitlines() if line.startswith("note: auto:0.5 is outside")]
    assert done.code == 0 and "0.9 is used" in note
    within = ep("ask", film, "Who?", "--sieve", sieve, "--keep", "auto:0.95", "--max-new-tokens", "2", "--json")
    assert "outside" not in within.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--keep", "auto", "--sieve", "fused"), 1, "is not calibrated"),
        (("--keep", "auto", "--reducer", "uniform"), 2, "cs2 alone, not with uniform"),
        (("--keep", "auto:2"), 2, "outside (0, 1]"),
        (("--keep", "few"), 2, "--keep has 'few'"),
    ],
)
def test_the_error_without_auto_is_one_line(
    options: tuple[str, ...], code: int, message: str, tiny: str, film: Path, ep: Program
) -> None:
    done = ep("ask", film, "Who?", "--model", tiny, *options)
    assert done.code == code and message in done.err.splitlines()[0]


def test_a_plan_states_what_it_cannot_know(sieve: Path, tiny: str, film: Path, ep: Program) -> None:
    drawn = outline(tiny, LoadOptions(device="cpu", sieve=str(sieve)))
    clip = tinymodel.clip(3.0)
    planned = plan(drawn, clip, "Who?", AskOptions("cs2", Auto()))
    most = plan(drawn, clip, "Who?", AskOptions("cs2", MOST))
    assert planned.report == most.report and "planned with" in planned.warnings[0]
    with pytest.raises(ModelError, match="not calibrated"):
        plan(outline(tiny, LoadOptions(device="cpu", sieve="fused")), clip, "Who?", AskOptions("cs2", Auto()))
    assert plan(outline("qwen2.5-omni-3b", LoadOptions()), clip, "Who?", AskOptions("cs2", Auto())).warnings
    done = ep("ask", film, "Who?", "--sieve", sieve, "--keep", "auto", "--dry-run", "--json")
    report = json.loads(done.out)
    assert report["keep"] == "auto:0.98" and "auto:0.98 keeps" in report["warnings"][0]


def test_a_run_keeps_at_most_what_the_plan_states(sieve: Path, tiny: str) -> None:
    model = load(tiny, device="cpu", sieve=str(sieve))
    answer = model.ask(tinymodel.clip(3.0), "Who?", keep=Auto(0.95), generate=SHORT)
    assert LEAST <= answer.report.tokens.kept_ratio <= MOST + 0.01


def test_explain_reports_the_automatic_ratio(sieve: Path, film: Path, tmp_path: Path, ep: Program) -> None:
    for name in ("page.html", "picture.png"):
        done = ep("explain", film, "Who?", "--sieve", sieve, "--keep", "auto", "--out", tmp_path / name)
        assert done.code == 0 and "cs2 auto:0.98: " in done.err


def test_profile_measures_fixed_ratios_only(film: Path, ep: Program) -> None:
    done = ep("profile", film, "Who?", "--keep", "auto,0.2")
    assert done.code == 2 and "auto" in done.err.splitlines()[0]


@pytest.mark.parametrize(("place", "message"), [("no/such/sieve", "no usable sieve"), (None, "cannot be written")])
def test_a_folder_that_cannot_be_written_is_reported_first(
    place: str | None, message: str, film: Path, tmp_path: Path, ep: Program
) -> None:
    data = film.parent / f"{tmp_path.name}.jsonl"
    data.write_text(json.dumps({"media": film.name, "question": "Who?", "answer": "cat"}) + "\n")
    taken = tmp_path / "file"
    taken.touch()
    where = ("--out", taken) if place is None else ("--sieve", tmp_path / place)
    done = ep("calibrate", data, *where)
    assert done.code == 1 and message in done.err.splitlines()[0]
    assert not (tmp_path / "no").exists()


def test_another_sieve_is_overwritten_only_with_force(tiny: str, tmp_path: Path) -> None:
    bundled, out = ASSETS / "tiny" / "sieve", tmp_path / "mine"
    assert sieve_to_write(bundled, out) == out
    (out / SIEVE_CONFIG).write_text("mine")
    with pytest.raises(DataError, match="already contains a sieve"):
        sieve_to_write(bundled, out)
    assert (out / SIEVE_CONFIG).read_text() == "mine"
    sieve_to_write(bundled, out, force=True)
    assert sieve_to_write(out, out) == out  # itself
    assert read_sieve_options(out) == read_sieve_options(bundled)


def test_the_bundled_sieve_is_not_overwritten(film: Path, ep: Program) -> None:
    data = film.parent / "bundled.jsonl"
    data.write_text(json.dumps({"media": film.name, "question": "Who?", "answer": "cat"}) + "\n")
    before = (ASSETS / "tiny" / "sieve" / SIEVE_CONFIG).read_bytes()
    done = ep("calibrate", data)
    assert done.code == 1 and "bundled sieve cannot be changed" in done.err and "--out" in done.err
    assert (ASSETS / "tiny" / "sieve" / SIEVE_CONFIG).read_bytes() == before
