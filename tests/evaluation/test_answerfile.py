"""`ep evaluate --out`: existing files are kept, and an interrupted evaluation is resumed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.datasets.questions import Row
from echoingpixels.errors import DataError
from echoingpixels.evaluation import evaluate as asking
from echoingpixels.evaluation.answerfile import AnswerFile, made_with
from echoingpixels.evaluation.evaluate import Outcome
from echoingpixels.options import GenerateOptions, LoadOptions, MediaOptions
from echoingpixels.reducers.setting import Setting
from echoingpixels.report import TokenCounts, Tokens
from tests.support import clips
from tests.support.program import Done, Program, command, environment

SHORT = ("--model", "tiny", "--max-new-tokens", "2", "--keep", "1,0.3", "--fps", "1")
QUESTIONS = ("Who?", "Which object appears first?", "Is the bell heard?")
FULL, CS2 = Setting("full", 1.0), Setting("cs2", 0.3)
TOKENS = Tokens.of(*2 * [TokenCounts(1, 1, 1, 1)])
ROWS = [Row("q0", Path("a.mp4"), "Who?", "cat"), Row("q1", Path("b.mp4"), "Who?", "dog", start=1.0)]
MADE = {"fps": 2.0, "weights": "w", "model": "tiny"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions about each of two clips."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(2):
        clips.write(folder / f"{i}.mp4", clips.Film(seconds=1.0 + i, fps=10))
    rows = [
        {"id": f"q{k}-{i}", "media": f"{i}.mp4", "question": question, "answer": "cat", "kind": f"kind {k}"}
        for k, question in enumerate(QUESTIONS)
        for i in range(2)
    ]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def untimed(done: Done) -> dict[str, Any]:
    """The output of a run with --json, without its times."""
    report: dict[str, Any] = json.loads(done.out)
    for run in report["runs"]:
        del run["time_s"]
    return report


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


def refused(done: Done, code: int, text: str) -> None:
    """Refused for `text` before the model was loaded."""
    assert done.code == code and text in done.err.splitlines()[0], done.err
    assert "clips" not in done.err and "\nhint: " in done.err


@pytest.mark.parametrize("questions", [0, 1, 2, 5])
def test_an_interrupted_evaluation_resumes_to_the_same_report(
    questions: int, data: Path, out: Path, ep: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = out.with_name("whole.jsonl")
    expected = ep("evaluate", data, *SHORT, "--json", "--out", whole)
    with monkeypatch.context() as patch:
        patch.setattr("echoingpixels.batching.TOKENS_AT_ONCE", 1)
        real, calls = asking.answer_each, []

        def answers(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) > questions:
                raise KeyboardInterrupt
            return real(*arguments)

        patch.setattr(asking, "answer_each", answers)
        assert ep("evaluate", data, *SHORT, "--out", out).code == 130
    assert (len(out.read_text().splitlines()) if out.exists() else 0) == questions
    if questions > 1:
        out.write_text(out.read_text()[:-9])  # the last line is incomplete
    resumed = ep("evaluate", data, *SHORT, "--json", "--out", out, "--resume")
    assert resumed.code == 0 and untimed(resumed) == untimed(expected)
    assert lines(out) == lines(whole)
    again = ep("evaluate", data, *SHORT, "--json", "--out", out, "--resume", "--baseline", whole)
    assert lines(out) == lines(whole) and json.loads(again.out)["runs"][0]["paired"][0]["difference"] == 0.0


def test_a_killed_evaluation_resumes(data: Path, out: Path, ep: Program) -> None:
    program = subprocess.Popen(command("evaluate", data, *SHORT, "--out", out), env=environment())
    for _ in range(1200):
        if (out.exists() and out.stat().st_size) or program.poll() is not None:
            break
        time.sleep(0.05)
    program.kill()
    program.wait()
    resumed = ep("evaluate", data, *SHORT, "--json", "--out", out, "--resume")
    assert resumed.code == 0 and "resuming: " in resumed.err
    assert len(lines(out)) == 12 and untimed(resumed) == untimed(ep("evaluate", data, *SHORT, "--json"))


def test_a_clip_that_failed_is_asked_again(data: Path, out: Path, ep: Program) -> None:
    film = data.parent / "1.mp4"
    hidden = film.rename(film.with_suffix(".hidden"))
    broken = ep("evaluate", data, *SHORT, "--json", "--out", out)
    hidden.rename(film)
    assert broken.code == 3 and [run["failed"] for run in json.loads(broken.out)["runs"]] == [3, 3]
    assert sum(bool(json.loads(line)["error"]) for line in lines(out)) == 6
    mended = ep("evaluate", data, *SHORT, "--json", "--out", out, "--resume")
    assert mended.code == 0 and "clips 1 of 1" in mended.err
    assert len(lines(out)) == 12 and not any(json.loads(line)["error"] for line in lines(out))


def test_other_settings_are_added_to_the_same_file(data: Path, out: Path, ep: Program) -> None:
    narrow = (*SHORT[:4], "--fps", "1", "--keep")
    assert ep("evaluate", data, *narrow, "1", "--out", out).code == 0
    assert ep("evaluate", data, *narrow, "0.3", "--out", out, "--resume").code == 0
    assert [json.loads(line)["reducer"] for line in out.read_text().splitlines()] == 6 * ["full"] + 6 * ["cs2-maxmin"]


def test_existing_files_are_not_overwritten(data: Path, out: Path, ep: Program) -> None:
    out.write_text("mine\n")
    before = data.read_text()
    refused(ep("evaluate", data, *SHORT, "--out", out), 1, "already exists")
    refused(ep("evaluate", data, *SHORT, "--out", out, "--resume"), 1, "line 1 is not a valid evaluation answer")
    refused(ep("evaluate", data, *SHORT, "--out", out, "--resume", "--force"), 2, "both given")
    refused(ep("evaluate", data, *SHORT, "--resume"), 2, "--resume needs --out")
    refused(ep("evaluate", data, *SHORT, "--out", out.parent, "--force"), 1, "cannot be written")
    assert out.read_text() == "mine\n"
    link = out.with_name("link")
    link.symlink_to(data)
    for how in ((), ("--force",), ("--resume",)):
        for path in (data, link, data.parent / "0.mp4"):
            refused(ep("evaluate", data, *SHORT, "--out", path, *how), 2, "would overwrite")
    assert data.read_text() == before
    assert ep("evaluate", data, *SHORT, "--limit", "1", "--out", out, "--force").code == 0
    assert len(lines(out)) == 2
    answers = out.read_text()
    refused(ep("evaluate", data, *SHORT, "--baseline", out, "--out", out, "--force"), 2, "would overwrite")
    assert out.read_text() == answers


def test_force_overwrites_nothing_before_the_first_answer(
    data: Path, out: Path, ep: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.write_text("mine\n")
    monkeypatch.setattr("epcli.commands.evaluate.load_model", lambda *_: 1 / 0)
    assert ep("evaluate", data, *SHORT, "--out", out, "--force").code == 1
    assert out.read_text() == "mine\n"


def test_answers_made_with_other_options_are_refused(data: Path, out: Path, ep: Program) -> None:
    assert ep("evaluate", data, *SHORT, "--limit", "1", "--out", out).code == 0
    before = out.read_text()
    for option, value, name in (
        ("--fps", "2", "fps"),
        ("--max-frames", "4", "max_frames"),
        ("--max-pixels", "3136", "resolution"),
        ("--max-new-tokens", "3", "max_new_tokens"),
        ("--temperature", "0.5", "temperature"),
        ("--reuse", "off", "reuse"),
        ("--encoder-keep", "0.3", "encoder_keep"),
        ("--no-audio", None, "audio"),
    ):
        more = (option,) if value is None else (option, value)
        refused(ep("evaluate", data, *SHORT, *more, "--out", out, "--resume"), 1, f"was made with {name} ")
    assert out.read_text() == before


def outcome(row: Row, setting: Setting, error: str | None = None) -> Outcome:
    answer = None if error else "cat"
    return Outcome(row, setting, answer, None if error else row.answer == "cat", error, None if error else TOKENS)


def test_written_answers_are_known_when_resumed(out: Path) -> None:
    with AnswerFile(out, ROWS, [FULL, CS2], MADE) as file:
        for row in ROWS:
            file.write(outcome(row, FULL))
        file.write(outcome(ROWS[0], CS2, error="It is broken."))
    with AnswerFile(out, ROWS, [FULL, CS2], MADE, resume=True) as file:
        assert [file.known(row, FULL) for row in ROWS] == [outcome(row, FULL) for row in ROWS]
        assert len(file) == 2 and file.known(ROWS[0], CS2) is None
    assert len(out.read_text().splitlines()) == 2


def test_failures_that_are_not_repeated_remain(out: Path) -> None:
    with AnswerFile(out, ROWS, [FULL, CS2], MADE) as file:
        file.write(outcome(ROWS[0], CS2, error="It is broken."))
        file.write(outcome(ROWS[1], FULL, error="It is broken."))
    before = out.read_text()
    with AnswerFile(out, ROWS[:1], [FULL], MADE, resume=True) as file:
        assert len(file) == 0
    assert out.read_text() == before


@pytest.mark.parametrize("changed", [{"question": "Where?"}, {"media": Path("c.mp4")}, {"start": 2.0}])
def test_an_id_of_another_question_is_refused(changed: dict[str, Any], out: Path) -> None:
    with AnswerFile(out, ROWS, [FULL], MADE) as file:
        file.write(outcome(ROWS[1], FULL))
    now = Row(**{**vars(ROWS[1]), **changed})
    with pytest.raises(DataError, match="another question with id 'q1'"):
        AnswerFile(out, [now], [FULL], MADE, resume=True)


def test_the_name_of_a_model_may_differ_if_its_weights_are_equal(out: Path) -> None:
    with AnswerFile(out, ROWS, [FULL], MADE) as file:
        file.write(outcome(ROWS[0], FULL))
    with AnswerFile(out, ROWS, [FULL], {**MADE, "model": "elsewhere/tiny"}, resume=True) as file:
        assert len(file) == 1
    for made in ({**MADE, "weights": "others"}, {**MADE, "dtype": "float16"}, {"model": "tiny", "fps": 2.0}):
        with pytest.raises(DataError, match="was made with"):
            AnswerFile(out, ROWS, [FULL], made, resume=True)


@pytest.mark.parametrize("key", ["made_with", "tokens", "answer", "reducer", "media"])
def test_a_file_of_an_earlier_version_is_refused_and_unchanged(key: str, out: Path) -> None:
    with AnswerFile(out, ROWS, [FULL], MADE) as file:
        file.write(outcome(ROWS[0], FULL))
    row = json.loads(out.read_text())
    del row[key]
    out.write_text(json.dumps(row) + "\n")
    before = out.read_text()
    with pytest.raises(DataError, match="line 1 is not a valid evaluation answer"):
        AnswerFile(out, ROWS, [FULL], MADE, resume=True)
    assert out.read_text() == before


def test_all_options_that_change_answers_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(load: LoadOptions = LoadOptions(), **media: Any) -> dict[str, Any]:  # noqa: B008
        return made_with("tiny", load, MediaOptions(**media), GenerateOptions())

    assert made() == made(LoadOptions(device="cpu", cache=Path("elsewhere")))
    changed: list[Callable[[], dict[str, Any]]] = [
        lambda: made(LoadOptions(quant="nf4")),
        lambda: made(LoadOptions(max_pixels=5000)),
        lambda: made(LoadOptions(reuse=None)),
        lambda: made(fps=1.0),
        lambda: made(max_frames=3),
        lambda: made(audio=False),
        lambda: made(audio_track=1),
    ]
    assert all(one() != made() for one in changed)
