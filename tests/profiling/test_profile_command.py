"""`ep profile`: which clips it takes, what it prints and writes, and what it refuses before anything is measured."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.checkpoints.loading import KNOWN
from tests.support.program import ROOT, Done, Program, call

QUESTION = "Which object appears first?"
SHORT = ("--max-new-tokens", "2", "--device", "cpu", "--keep", "0.2", "--warm-up", "0")
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Made:
    """One run with everything it can write."""

    done: Done
    said: dict[str, Any]
    data: Path
    csv: Path
    plot: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, film: Path, tiny: str) -> Made:
    folder = tmp_path_factory.mktemp("profile")
    data = folder / "questions.jsonl"
    rows = [{"media": str(name), "question": QUESTION, "answer": "cat"} for name in (film, "gone.mp4")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = ("--csv", folder / "out.csv", "--plot", folder / "out.svg")
    arguments = ("--model", tiny, *SHORT, "--repeat", "2", "--data", data, "--json", *outputs)
    done = call("profile", film, QUESTION, *arguments)
    return Made(done, json.loads(done.out), data, folder / "out.csv", folder / "out.svg")


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("echoingpixels.from_pretrained.load", load)


def test_json_has_the_keys_of_ask_and_evaluate(made: Made, film: Path, tiny: str) -> None:
    said = made.said
    about = "media question model quant device repeat warm_up seed clips failed runs recommended warnings notes data"
    assert made.done.code == 0 and list(said) == about.split()
    assert (said["media"], said["question"], said["model"]) == (str(film), QUESTION, tiny)
    assert (said["repeat"], said["warm_up"], said["clips"], said["failed"]) == (2, 0, [str(film)], {})
    reducers = [(one["reducer"], one["keep"]) for one in said["runs"]]
    assert reducers == [("full", 1), ("cs2-maxmin", 0.2), ("uniform", 0.2), ("random", 0.2)]
    for one in said["runs"]:
        assert set(one) == {
            *("reducer", "keep", "answer", "agreement", "tokens", "time_s", "tokens_per_s", "memory_bytes", "flops"),
            *("speedup", "accuracy", "interval", "questions", "failed", "unparsed", "spread", "answers"),
        }
        stages = "load decode prepare encode select prefill generate evidence first_token total llm"
        assert set(one["time_s"]) == set(one["spread"]["time_s"]) == set(stages.split())
        assert set(one["memory_bytes"]) == {"weights", "peak", "peak_llm"}
        assert set(one["speedup"]) == {"estimated", "measured", "llm"}
        assert one["tokens"]["kept_ratio"] == pytest.approx(one["keep"], abs=0.02)
        for name, value in one["time_s"].items():
            extremes = one["spread"]["time_s"][name]
            assert value is None or extremes["min"] <= value <= extremes["max"]
    full = said["runs"][0]
    assert full["agreement"] == full["speedup"]["measured"] == full["speedup"]["llm"] == 1
    assert (said["recommended"]["reducer"], said["recommended"]["keep"]) in reducers and said["recommended"]["reason"]


def test_data_adds_the_score_that_evaluate_gives(made: Made, tiny: str, ep: Program) -> None:
    options = ("--model", tiny, "--reducer", "cs2-maxmin,uniform,random", "--max-new-tokens", "2", "--device", "cpu")
    scored = json.loads(ep("evaluate", made.data, *options, "--keep", "1,0.2", "--json").out)
    assert made.said["data"] == str(made.data)
    for mine, theirs in zip(made.said["runs"], scored["runs"], strict=True):
        for key in ("reducer", "keep", "accuracy", "interval", "questions", "failed"):
            assert mine[key] == theirs[key]
        assert (mine["questions"], mine["failed"]) == (2, 1)
    assert "failed: " in made.done.err and "gone.mp4" in made.done.err


def test_the_csv_holds_the_figures_of_the_json(made: Made) -> None:
    with made.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reducer"] for row in rows] == ["full", "cs2-maxmin", "uniform", "random"]
    for row, one in zip(rows, made.said["runs"], strict=True):
        assert None not in row and "answers" not in row
        assert float(row["time_s.total"]) == one["time_s"]["total"]
        assert float(row["spread.speedup.llm.max"]) == one["spread"]["speedup"]["llm"]["max"]
        assert int(row["tokens.video.after"]) == one["tokens"]["video"]["after"]
        assert float(row["interval.min"]) == one["interval"][0]
        assert row["answer"] == one["answer"]


def test_the_plot_names_every_reducer_and_quantity(made: Made) -> None:
    drawn = "".join(re.findall(r"<text[^>]*>[^<]*", made.plot.read_text()))
    quantities = ("speedup, end to end", "speedup, LLM alone", "peak memory", "agreement", "questions right")
    for text in ("cs2-maxmin", "uniform", "random", "all tokens", "2 rounds, 1 clip", *quantities):
        assert text in drawn, text
    assert "not measured" not in drawn


def test_a_pipe_gets_plain_tables_and_one_recommendation(film: Path, tiny: str, tmp_path: Path, ep: Program) -> None:
    plot = tmp_path / "OUT.PNG"
    done = ep("profile", film, QUESTION, "--model", tiny, *SHORT, "--repeat", "1", "--plot", plot)
    assert done.code == 0 and plot.read_bytes().startswith(PNG)
    size, times, gains, last = done.out.rstrip("\n").split("\n\n")
    for table, columns in (
        (size, ("video", "audio", "text", "compute", "peak memory")),
        (times, ("encode", "select", "prefill", "first token", "tok/s", "total (min–max)")),
        (gains, ("speedup (min–max)", "LLM alone (min–max)", "agreement", "answer")),
    ):
        header, *rows = table.splitlines()
        assert header.split()[:2] == ["reducer", "keep"] and all(column in header for column in columns)
        assert [row.split()[0] for row in rows] == ["full", "cs2-maxmin", "uniform", "random"]
    assert "right" not in gains
    assert re.match(r"recommended: (full|cs2-maxmin|uniform|random) at keep (1|0.2)\. [A-Z].*\.$", last)
    assert "\x1b" not in done.out + done.err
    assert "note: With --repeat 1 there is no spread." in done.err and "answers 4 of 4" in done.err


def test_a_folder_is_all_its_clips_in_order(film: Path, tiny: str, tmp_path: Path, ep: Program) -> None:
    for name in ("b.mp4", "a/c.MP4", ".hidden.mp4", ".cache/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(film, tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a clip")
    (tmp_path / "cover.png").write_bytes(b"not a clip")
    (tmp_path / "broken.mp4").write_bytes(b"not a clip")
    done = ep("profile", tmp_path, QUESTION, "--model", tiny, *SHORT, "--repeat", "1", "--json")
    said = json.loads(done.out)
    assert done.code == 0
    assert said["clips"] == [str(tmp_path / name) for name in ("a/c.MP4", "b.mp4")]
    assert list(said["failed"]) == [str(tmp_path / "broken.mp4")]
    for one in said["runs"]:
        assert one["answer"] is None and [reply["clip"] for reply in one["answers"]] == said["clips"]
        assert one["agreement"] in (0, 1)  # it is the same clip twice


def test_what_a_model_cannot_do_is_said_or_refused(film: Path, tiny: str, tmp_path: Path, ep: Program) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(KNOWN[tiny], bare, ignore=shutil.ignore_patterns("sieve"))
    done = ep("profile", film, QUESTION, "--model", bare, *SHORT, "--repeat", "1")
    assert done.code == 0 and "\nmaxmin-floors" in done.out
    assert "\ncs2" not in done.out and "\nuniform" in done.out
    done = ep("profile", film, QUESTION, "--model", bare, *SHORT, "--reducer", "cs2")
    assert done.code == 1 and "no sieve weights" in done.err.splitlines()[0]


Wrong = Callable[[Path, Path], tuple[object, ...]]  # of an empty folder and a clip

WRONG: dict[str, tuple[Wrong, int, str, str]] = {
    "no clip": (lambda folder, film: (folder, QUESTION), 1, "holds no video or audio file", "mp4"),
    "missing": (lambda folder, film: (folder / "gone.mp4", QUESTION), 1, "no such file", "path"),
    "question": (lambda folder, film: (film, " "), 2, "question is empty", "quotes"),
    "keep": (lambda folder, film: (film, QUESTION, "--keep", "1,2"), 2, "keep is 2", "0.1"),
    "number": (lambda folder, film: (film, QUESTION, "--keep", "few"), 2, "'few'", "1,0.2"),
    "reducer": (lambda folder, film: (film, QUESTION, "--reducer", "best"), 2, "'best'", "uniform"),
    "repeat": (lambda folder, film: (film, QUESTION, "--repeat", "0"), 2, "--repeat", "--help"),
    "warm-up": (lambda folder, film: (film, QUESTION, "--warm-up", "-1"), 2, "--warm-up", "--help"),
    "data": (
        lambda folder, film: (film, QUESTION, "--data", folder / "gone.jsonl"),
        1,
        "no such file",
        "Check the path.",
    ),
    "plot ending": (lambda folder, film: (film, QUESTION, "--plot", folder / "a.gif"), 2, "a.gif", ".png or .svg"),
    "csv ending": (lambda folder, film: (film, QUESTION, "--csv", folder / "a.txt"), 2, "a.txt", ".csv"),
    "no folder": (lambda folder, film: (film, QUESTION, "--csv", folder / "no/a.csv"), 1, "cannot be written", "--csv"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(
    name: str, film: Path, tmp_path: Path, untouched: None, ep: Program
) -> None:
    arguments, code, said, hint = WRONG[name]
    done = ep("profile", *arguments(tmp_path, film))
    first, second = done.err.splitlines()
    assert (done.code, done.out) == (code, "")
    assert first.startswith("error: ") and said in first
    assert second.startswith("hint: ") and hint in second


def test_checking_an_output_leaves_the_disk_as_it_was(film: Path, tmp_path: Path, untouched: None, ep: Program) -> None:
    (tmp_path / "old.csv").write_text("mine")
    done = ep("profile", film, " ", "--csv", tmp_path / "old.csv", "--plot", tmp_path / "new.png")
    assert done.code == 2
    done = ep("profile", tmp_path / "gone.mp4", QUESTION, "--csv", tmp_path / "old.csv", "--plot", tmp_path / "new.png")
    assert done.code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"] and (tmp_path / "old.csv").read_text() == "mine"


def test_an_output_that_exists_is_overwritten_only_by_force(
    film: Path, tmp_path: Path, untouched: None, ep: Program
) -> None:
    old, data = tmp_path / "old.csv", tmp_path / "data.csv"
    old.write_text("mine")
    data.write_text(json.dumps({"media": str(film), "question": "Who?", "answer": "cat"}) + "\n")
    for options, said in (
        (("--csv", old), "already exists"),
        (("--csv", data, "--data", data, "--force"), "would overwrite"),
        (("--csv", old, "--force"), "a model was loaded"),
    ):
        assert said in ep("profile", film, QUESTION, *options).err
    assert old.read_text() == "mine"


def test_data_is_read_as_evaluate_reads_it(film: Path, tiny: str, tmp_path: Path, ep: Program) -> None:
    (tmp_path / "clips").mkdir()
    shutil.copy(film, tmp_path / "clips" / "a.mp4")
    record = {"Question": "Who?", "Choice": ["A. cat", "B. dog"], "Answer": "A", "video_id": "a", "Type": "who"}
    data = tmp_path / "daily.json"
    data.write_text(json.dumps([record, record, record]))
    options = ("--data", data, "--media", tmp_path / "clips", "--format", "daily-omni", "--limit", "2")
    done = ep("profile", film, QUESTION, "--model", tiny, *SHORT, "--repeat", "1", *options, "--json")
    assert done.code == 0, done.err
    assert {(run["questions"], run["failed"]) for run in json.loads(done.out)["runs"]} == {(2, 0)}


@pytest.mark.parametrize("option", [("--format", "daily-omni"), ("--media", "."), ("--limit", "1")])
def test_options_about_the_questions_need_questions(
    option: tuple[str, str], film: Path, untouched: None, ep: Program
) -> None:
    done = ep("profile", film, QUESTION, *option)
    assert done.code == 2 and f"{option[0]} needs --data" in done.err


def test_a_picture_is_not_drawn_over_the_clip(tmp_path: Path, untouched: None, ep: Program) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(PNG)
    done = ep("profile", photo, QUESTION, "--plot", tmp_path / "." / "photo.png")
    assert done.code == 2 and "would overwrite" in done.err
    assert photo.read_bytes() == PNG


def test_a_plot_without_matplotlib_names_the_extra(
    film: Path, tmp_path: Path, untouched: None, monkeypatch: pytest.MonkeyPatch, ep: Program
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = ep("profile", film, QUESTION, "--plot", tmp_path / "out.png")
    assert done.code == 1
    assert "matplotlib" in done.err and "echoingpixels[plot]" in done.err


def test_an_interrupted_run_prints_no_figures_and_no_traceback(
    film: Path, tiny: str, monkeypatch: pytest.MonkeyPatch, ep: Program
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("echoingpixels.model.EncodedClip.ask", stop)
    done = ep("profile", film, QUESTION, "--model", tiny, *SHORT)
    assert (done.code, done.out, done.err.strip()) == (130, "", "")


def test_the_python_of_the_page_runs(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(film, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "profile.md").read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["result"].recommended.setting in names["result"].settings
