"""Published sets from file to score: right, wrong, unparsed and failed answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.datasets.reading import read_questions
from echoingpixels.evaluation import evaluate as under_test
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.reducers.setting import Setting
from tests.support import tinymodel
from tests.support.program import Program


@pytest.fixture
def data(tmp_path: Path, film: Path) -> Path:
    """Daily-Omni's layout: four questions about one clip, one about a missing clip."""
    (tmp_path / "Videos/v1").mkdir(parents=True)
    shutil.copy(film, tmp_path / "Videos/v1/v1_video.mp4")
    question = {"Question": "Who?", "Choice": ["A. cat", "B. dog"], "Type": "who", "video_duration": "30s"}
    about = [("v1", "A"), ("v1", "B"), ("v1", "B"), ("v1", "A"), ("gone", "A")]
    path = tmp_path / "qa.json"
    path.write_text(json.dumps([question | {"video_id": video, "Answer": answer} for video, answer in about]))
    return path


def test_an_answer_without_an_option_is_unparsed_and_a_missing_clip_failed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["The answer is A.", "a dog", "A cat and a dog", ""]
    real = under_test.answer_each

    def answers(*arguments: Any) -> Any:
        return [replace(one, text=text) for text, one in zip(texts, real(*arguments), strict=True)]

    monkeypatch.setattr(under_test, "answer_each", answers)
    (run,) = evaluate(tinymodel.model(), read_questions(data), [Setting("uniform", 0.5)])
    assert [(o.right, o.unparsed) for o in run.outcomes] == [
        (True, False),
        (True, False),
        (False, True),
        (False, True),
        (None, False),
    ]
    score = run.score
    assert (score.accuracy, score.questions, score.failed, score.unparsed) == (0.5, 5, 1, 2)
    assert (run.by_kind["who"].unparsed, run.by_regime["up to 1 min"].failed) == (2, 1)


def test_the_command_names_missing_clips_and_goes_on(ep: Program, data: Path) -> None:
    options = ("--media", data.parent / "Videos", "--keep", "0.2", "--reducer", "uniform", "--max-new-tokens", 4)
    done = ep("evaluate", data, *options, "--out", data.with_suffix(".jsonl"))
    assert done.code == 3 and "failed: " in done.err and "gone" in done.err
    header, row = (line.split() for line in done.out.splitlines()[:2])
    assert "unparsed" in header and row[0] == "uniform"
    lines = [json.loads(line) for line in data.with_suffix(".jsonl").read_text().splitlines()]
    assert sorted(line["expected"] for line in lines) == list("AAABB")
    assert all(line["unparsed"] or line["answer"] or line["error"] for line in lines)
    wrong = ep("evaluate", data, "--format", "daily")
    assert wrong.code == 2 and "daily-omni" in wrong.err
