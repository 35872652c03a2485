"""Earlier evaluations: their files, the run to compare with, and how questions are matched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.errors import DataError
from echoingpixels.evaluation.baseline import Baseline, read_baseline
from echoingpixels.reducers.setting import Setting
from tests.evaluation.test_paired import run

CS2, FULL = Setting("cs2", 0.2), Setting("full", 1.0)


def answer(number: int, right: bool | None, setting: Setting = CS2, **more: Any) -> dict[str, Any]:
    """A line as --out writes it."""
    fields = {"id": f"q{number}", "media": f"data/{number // 2}.mp4", "question": f"Who {number}?", "right": right}
    return {**fields, "reducer": setting.reducer, "keep": setting.keep, **more}


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def compared(baseline: Baseline, *rights: bool | None, setting: Setting = CS2, chosen: Setting | None = None) -> Any:
    return baseline.compare(run(setting, *rights), chosen)


def test_questions_are_matched_within_the_same_setting(file: Path) -> None:
    lines = [answer(2, False), answer(0, False), answer(1, None), answer(0, True, FULL), answer(9, True)]
    found = compared(read_baseline(written(file, *lines)), True, True, False, True)
    assert (found.source, found.against) == (str(file), CS2)
    assert (found.whole.questions, found.whole.failed, found.whole.gained, found.whole.lost) == (3, 1, 1, 0)
    assert (found.here, found.there) == (1, 1)
    assert found.as_dict()["unmatched"] == {"here": 1, "there": 1}


def test_a_report_pairs_as_its_answers_do(file: Path, tmp_path: Path) -> None:
    marks = [{"id": f"q{i}", "right": right} for i, right in enumerate((True, False, None))]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"runs": [{"reducer": "cs2", "keep": 0.2, "marks": marks}]}, indent=1))
    lines = [answer(i, right) for i, right in enumerate((True, False, None))]
    one, other = (compared(read_baseline(path), False, False, True) for path in (report, written(file, *lines)))
    assert one.whole == other.whole and one.by_kind == other.by_kind
    assert (one.whole.lost, one.whole.failed) == (1, 1)


def test_without_ids_questions_are_matched_by_media_and_text(file: Path) -> None:
    found = compared(
        read_baseline(written(file, answer(0, False, id=None), answer(3, True, id=None))), True, True, True, True
    )
    assert (found.whole.questions, found.whole.gained, found.here) == (2, 1, 2)


def test_an_id_with_another_question_is_no_match(file: Path) -> None:
    baseline = read_baseline(written(file, answer(0, True, question="Who else?"), answer(1, True)))
    assert compared(baseline, True, True).here == 1


def test_the_run_to_compare_with_is_the_chosen_or_the_only_one(file: Path) -> None:
    only = read_baseline(written(file, answer(0, False)))
    assert only.against(FULL) == CS2 and only.against(CS2) == CS2
    two = read_baseline(written(file, answer(0, False), answer(0, True, FULL)))
    assert two.against(Setting("uniform", 0.2)) is None and compared(two, True, setting=Setting("uniform", 0.2)) is None
    assert two.against(CS2) == CS2 and two.against(CS2, FULL) == FULL
    with pytest.raises(DataError, match=r"no run uniform:0\.1") as error:
        two.against(CS2, Setting("uniform", 0.1))
    assert "cs2:0.2, full:1" in error.value.hint


def test_a_file_with_nothing_to_compare_is_refused_before_the_evaluation(file: Path) -> None:
    rows = [outcome.row for outcome in run(CS2, True, False).outcomes]
    two = read_baseline(written(file, answer(0, False), answer(0, True, FULL)))
    two.check(rows, [CS2, Setting("uniform", 0.2)])
    with pytest.raises(DataError, match=r"none of these runs: uniform:0\.2"):
        two.check(rows, [Setting("uniform", 0.2)])
    with pytest.raises(DataError, match="no question in common"):
        read_baseline(written(file, answer(7, False))).check(rows, [CS2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no answer"),
        ("\n\n", "contains no answer"),
        ("reducer,keep\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is not a JSON object"),
        ('{"media": "a.mp4", "question": "Who?", "answer": "cat"}\n', "line 1 is not an answer of an evaluation"),
        (json.dumps({**answer(0, True), "right": "yes"}), "right 'yes'"),
        (json.dumps({**answer(0, True), "keep": "few"}), "line 1 is not an answer of an evaluation"),
        (json.dumps({**answer(0, True), "keep": []}), "line 1 is not an answer"),
        ((json.dumps(answer(0, True)) + "\n") * 2, "line 2: 'q0' occurs twice for cs2:0.2"),
        ('{"runs": [{"reducer": "cs2", "keep": 0.2}]}', "no marks to compare"),
        ('{"runs": 3}', "no marks to compare"),
        ('{"runs": []}', "contains no answer"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused_in_one_line(text: str, message: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_baseline(file)
    assert str(file) in error.value.message and "--out" in error.value.hint + "--out" * ("twice" in message)


def test_a_line_separator_inside_a_question_does_not_end_its_line(file: Path) -> None:
    file.write_text(
        json.dumps(answer(0, True, question="Who\u2028rings?"), ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert len(read_baseline(file).runs[CS2]) == 1


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, message in (("gone.jsonl", "no such file"), ("binary", "not utf-8")):
        with pytest.raises(DataError, match=message) as error:
            read_baseline(tmp_path / name)
        assert (error.value.hint == "Check the path.") == (name == "gone.jsonl")
