"""`ep` end to end, offline, on a CPU: stdout, stderr, and the JSON of the contract."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels.media import Worker
from echoingpixels.model import EchoingPixels
from echoingpixels.reducer_names import UNSIEVED
from epcli.console import columns, out, progress
from epcli.options import seconds
from epcli.render.tokens import WIDTH, bar, sparkline
from tests.support import clips
from tests.support.program import ROOT, Program, command, environment, on_terminal

QUESTION = "Which object appears first?"
KEYS = (
    *("media", "question", "answer", "model", "reducer", "keep", "quant", "device", "finish_reason"),
    *("tokens", "time_s", "question_s", "memory_bytes", "flops", "speedup", "encoded"),
    *("tokens_per_s", "first_layer", "last_layer", "evidence", "no_evidence", "warnings", "notes"),
)
STAGES = {"load", "decode", "prepare", "encode", "select", "prefill", "generate", "evidence", "first_token", "total"}


@pytest.fixture
def ask(ep: Program, film: Path, tiny: str) -> Callable[..., Any]:
    """Asks about the film, shortly."""

    def call(*arguments: object, about: Path = film) -> Any:
        shortly = ("--model", tiny, "--device", "cpu", "--max-new-tokens", "3")
        return ep("ask", about, *(arguments or (QUESTION,)), *shortly)

    return call


def test_the_answer_goes_to_stdout_and_one_line_of_statistics_to_stderr(ask: Callable[..., Any]) -> None:
    done, values = ask("-k", "0.5", QUESTION), json.loads(ask("-k", "0.5", QUESTION, "--json").out)
    assert done.code == 0
    assert done.out == values["answer"] + "\n"
    first, *notes = done.err.splitlines()
    assert all(line.startswith("note: ") for line in notes)
    counts = "video {before}→{after}, ".format(**values["tokens"]["video"])
    counts += "audio {before}→{after} tokens".format(**values["tokens"]["audio"])
    share = f"{100 * values['tokens']['kept_ratio']:.1f}"
    pattern = rf"{counts} \({share} %\) · \d+\.\d\d s, first token \d+\.\d\d s · (about \d+\.\dx faster|no speedup)"
    moment = "evidence {start:.1f}–{end:.1f} s".format(**values["evidence"][0])
    assert re.fullmatch(rf"{pattern} \(estimate\) · {moment}", first)
    assert "estimate" not in ask(QUESTION, "--reducer", "full").err


def test_notes_are_printed_once_for_several_questions(ask: Callable[..., Any], tmp_path: Path) -> None:
    mute = clips.write(tmp_path / "mute.mp4", clips.Film(seconds=1.0))
    done = ask(QUESTION, "Who?", about=mute)
    assert done.err.count("note: It has no audio track.") == 1 and done.err.count("first token") == 2


def test_the_report_is_printed_on_request(ask: Callable[..., Any]) -> None:
    done = ask(QUESTION, "--report")
    labels = ("video tokens: ", "audio tokens: ", "text tokens: ", "kept: ", "time: ", "speed: first token after ")
    for label in (*labels, "memory: weights ", "compute: full "):
        assert f"\n{label}" in f"\n{done.err}"
    assert "speedup (estimate): " in done.err and "measured" not in done.err
    assert " → " in done.err
    assert "\x1b" not in done.out + done.err


def test_json_has_exactly_the_keys_of_the_contract(ask: Callable[..., Any], film: Path, tiny: str) -> None:
    done = ask(QUESTION, "--json", "--keep", "0.1")
    said = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert json.loads(ask(QUESTION, "--json", "--report", "--keep", "0.1").out).keys() == said.keys()
    assert tuple(said) == KEYS
    assert (said["media"], said["question"], said["model"]) == (str(film), QUESTION, tiny)
    assert (said["reducer"], said["keep"], said["quant"], said["device"]) == ("cs2-maxmin", 0.1, "none", "cpu")
    assert said["finish_reason"] in ("stop", "length")
    assert set(said["tokens"]) == {"video", "audio", "image", "text", "kept_ratio"}
    assert all(set(said["tokens"][kind]) == {"before", "after"} for kind in ("video", "audio", "image", "text"))
    assert said["tokens"]["kept_ratio"] == pytest.approx(0.1, abs=0.01)
    assert set(said["time_s"]) == STAGES
    assert said["no_evidence"] is None and set(said["evidence"][0]) == {"start", "end", "share"}
    assert set(said["memory_bytes"]) == {"weights", "peak"}
    assert set(said["flops"]) == {"full", "reduced"}
    assert set(said["speedup"]) == {"estimated", "measured"} and said["speedup"]["measured"] is None
    assert said["time_s"]["decode"] > 0 and said["time_s"]["load"] > 0


def test_several_questions_are_one_line_each_and_read_the_clip_once(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, encoded = [], []
    stream, encode = Worker.stream, EchoingPixels.encode
    monkeypatch.setattr(Worker, "stream", lambda *a, **k: read.append(a) or stream(*a, **k))
    monkeypatch.setattr(EchoingPixels, "encode", lambda *a, **k: encoded.append(a) or encode(*a, **k))
    questions = (QUESTION, "Is the bell heard?", "Which number is spoken?")
    done = ask(*questions, "--json")
    said = [json.loads(line) for line in done.out.splitlines()]
    assert (len(read), len(encoded)) == (1, 1)
    assert [one["question"] for one in said] == list(questions)
    plain = ask(*questions)
    assert plain.out.splitlines() == [" ".join(one["answer"].split()) for one in said]


def test_reuse_takes_a_threshold_off_or_auto(ask: Callable[..., Any]) -> None:
    encoded = {
        reuse: json.loads(ask(QUESTION, "--json", "--reuse", reuse).out)["encoded"]
        for reuse in ("off", "auto", "0.1", "9")
    }
    assert sum(encoded["9"].values()) < sum(encoded["off"].values()) and encoded["auto"] == encoded["0.1"]
    for wrong in ("glance", "-1", "nan"):
        refused = ask(QUESTION, "--reuse", wrong)
        assert refused.code == 2 and wrong in refused.err and "off or auto" in refused.err


def test_the_vision_encoder_keeps_a_multiple_of_the_keep_ratio_except_to_compare(ask: Callable[..., Any]) -> None:
    def encoded(*options: str) -> int:
        values = json.loads(ask(QUESTION, "--json", *options).out)
        assert values["tokens"]["video"]["before"] == before
        return int(values["encoded"]["video"])

    before = json.loads(ask(QUESTION, "--json", "--encoder-keep", "off").out)["encoded"]["video"]
    assert encoded("--keep", "0.1") == encoded("--encoder-keep", "0.5") < encoded("--keep", "0.2") == before
    assert encoded("--keep", "0.1", "--encoder-keep", "3x") == encoded("--encoder-keep", "0.3")
    for all_cells in (("--encoder-keep", "off"), ("--compare",), ("--reducer", "full")):
        assert encoded("--keep", "0.1", *all_cells) == before


def test_encoder_keep_takes_shares_off_or_auto(ask: Callable[..., Any]) -> None:
    runs = {keep: json.loads(ask(QUESTION, "--json", "--encoder-keep", keep).out) for keep in ("off", "auto", "0.3@2")}
    assert runs["auto"]["encoded"] == runs["off"]["encoded"]
    assert runs["0.3@2"]["encoded"]["video"] <= 0.35 * runs["off"]["encoded"]["video"]
    assert runs["0.3@2"]["tokens"]["video"]["before"] == runs["off"]["tokens"]["video"]["before"]
    assert runs["0.3@2"]["flops"]["reduced"] < runs["off"]["flops"]["reduced"]
    for wrong in ("all", "1.5"):
        refused = ask(QUESTION, "--encoder-keep", wrong)
        assert refused.code == 2 and "off or auto" in refused.err
    assert ask(QUESTION, "--encoder-keep", "0.3@9").code == 2


def test_ablation_reducers_work_in_tools_but_are_not_in_the_help(ask: Callable[..., Any], ep: Program) -> None:
    import tools.quotas  # noqa: F401  (registers them)

    assert ask(QUESTION, "--reducer", "cs2-half").code == 0
    assert all("cs2-half" not in ep(name, "--help").out for name in ("ask", "evaluate", "profile", "batch", "explain"))


def test_what_cannot_be_compiled_is_said_and_not_run_plainly(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    done = ask(QUESTION, "--compile")
    assert (done.code, done.out) == (1, "") and "no compiler here" in done.err and "Leave --compile out" in done.err


def test_frames_are_kept_no_larger_than_the_model_sees_them(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, stream = [], Worker.stream

    def spy(*arguments: Any, **more: Any) -> Any:
        for piece in stream(*arguments, **more):
            kept.append(piece)
            yield piece

    monkeypatch.setattr(Worker, "stream", spy)
    assert ask(QUESTION, "--max-pixels", str(56 * 56)).code == 0
    height, width = kept[0].frames.shape[1:3]
    assert height * width <= 56 * 56


def test_compare_prints_both_answers_and_what_was_measured(ask: Callable[..., Any]) -> None:
    done = ask(QUESTION, "--compare", "--keep", "0.1")
    assert done.code == 0
    for label in ("speedup (estimate)", "speedup (measured)", "memory, full / reduced", "answer, all tokens"):
        assert f"{label}: " in done.err
    said = json.loads(ask(QUESTION, "--compare", "--json").out)
    assert tuple(said) == (*KEYS, "full", "memory_ratio")
    assert set(said["full"]) == {"answer", "time_s", "memory_bytes"}
    assert said["speedup"]["measured"] == pytest.approx(said["full"]["time_s"]["total"] / said["time_s"]["total"])
    assert said["memory_ratio"] == said["full"]["memory_bytes"]["peak"] / said["memory_bytes"]["peak"]


def test_a_dry_run_has_the_same_keys_and_no_answer(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = json.loads(ask(QUESTION, "--json").out)
    monkeypatch.setattr("echoingpixels.from_pretrained.load", None)  # a dry run must not need it
    said = json.loads(ask(QUESTION, "--json", "--dry-run").out)
    assert tuple(said) == KEYS
    assert (said["answer"], said["finish_reason"], said["speedup"]["measured"]) == (None, None, None)
    assert set(said["time_s"]) == STAGES and set(said["time_s"].values()) == {None}
    for kind in ("video", "audio", "image", "text"):
        assert said["tokens"][kind]["before"] == real["tokens"][kind]["before"]
    assert said["tokens"]["kept_ratio"] == real["tokens"]["kept_ratio"]
    assert said["memory_bytes"]["weights"] == real["memory_bytes"]["weights"]
    assert said["memory_bytes"]["peak"] == max(said["memory_bytes"]["stages"].values())
    assert said["memory_bytes"]["fits"] and said["memory_bytes"]["advice"] == []
    plain = ask(QUESTION, "--dry-run")
    assert (plain.code, plain.out) == (0, "")
    assert "video tokens: " in plain.err and "time:" not in plain.err


def test_a_dry_run_of_a_known_model_needs_no_download(ep: Program, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def offline(*_: object) -> None:
        raise AssertionError("it asked for the network")

    monkeypatch.setattr(socket.socket, "connect", offline)
    for name in ("qwen2.5-omni-3b", "qwen2.5-omni-7b"):
        done = ep("ask", film, QUESTION, "--model", name, "--dry-run", "--json", "--quant", "nf4")
        said = json.loads(done.out)
        assert done.code == 0 and said["model"] == name
        assert said["reducer"] == UNSIEVED and not said["warnings"]
        done = ep("ask", film, QUESTION, "--model", name, "--dry-run", "--json", "--quant", "nf4", "--reducer", "cs2")
        said = json.loads(done.out)
        assert 4e9 < said["memory_bytes"]["weights"] < 11e9
        assert "no sieve weights" in said["warnings"][0]


def test_show_draws_the_budget_and_when_the_kept_tokens_are(ask: Callable[..., Any]) -> None:
    done = ask(QUESTION, "--show", "--keep", "0.5", "--reducer", "uniform")
    for label in ("video kept: ", "audio kept: ", "video over time: ", "audio over time: "):
        assert f"{label}" in done.err
    line = next(line for line in done.err.splitlines() if line.startswith("audio kept"))
    assert line.count("█") == pytest.approx(WIDTH / 2, abs=3)
    assert "█" not in done.out


def test_what_a_clip_lacks_is_said(ask: Callable[..., Any], tmp_path: Path) -> None:
    mute = clips.write(tmp_path / "mute.mp4", clips.Film(seconds=1.0))
    assert "note: It has no audio track." in ask(about=mute).err
    assert json.loads(ask(QUESTION, "--json", "--no-cache", about=mute).out)["notes"][0] == "It has no audio track."
    silence = clips.Track(clips.beep(1.0, 5.0))
    silent = clips.write(tmp_path / "silent.mp4", clips.Film(seconds=1.0, tracks=(silence,)))
    assert "digitally silent" in ask(about=silent).err


def test_media_options_choose_what_is_read(ask: Callable[..., Any]) -> None:
    def budget(*options: str) -> dict[str, Any]:
        tokens: dict[str, Any] = json.loads(ask(QUESTION, "--json", *options).out)["tokens"]
        return {kind: tokens[kind]["before"] for kind in ("video", "audio")}

    whole = budget()
    assert budget("--no-audio") == {"video": whole["video"], "audio": 0}
    assert budget("--start", "1", "--end", "0:02")["audio"] == pytest.approx(whole["audio"] / 3, abs=2)
    assert budget("--max-frames", "2")["video"] < whole["video"] < budget("--fps", "8")["video"]


def test_the_same_seeded_clips_are_made_and_scored(tmp_path: Path, tiny: str, ep: Program) -> None:
    folder = tmp_path / "clips"
    done = ep("synth", folder, "--clips", "2", "--seed", "5", "--questions-per-clip", "2")
    assert (done.code, done.out) == (0, f"{folder / 'questions.jsonl'}\n")
    assert "clips 2 of 2" in done.err
    scored = ep("evaluate", folder / "questions.jsonl", "--model", tiny, "--json", "--max-new-tokens", "2")
    assert scored.code == 0
    assert [run["failed"] for run in json.loads(scored.out)["runs"]] == [0, 0]


RECIPE = """name = "mine"
model = "tiny"
[data]
train = "questions.jsonl"
[[stage]]
name = "full"
task = "answers"
steps = 1
"""


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path: Path, ep: Program) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\ncolour = "red"\n')
    done = ep("train", recipe, "--out", tmp_path / "out")
    assert done.code == 1
    assert "'colour'" in done.err and "Known keys" in done.err
    assert ep("train", tmp_path / "gone.toml").code == 1
    recipe.write_text(RECIPE)
    assert "'sleep'" in ep("train", recipe, "--stage", "sleep", "--out", tmp_path / "out").err
    assert not (tmp_path / "out").exists()


def test_training_never_replaces_what_it_did_not_make(tmp_path: Path, ep: Program) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    (tmp_path / "out" / "model").mkdir(parents=True)
    for folder, taken in ((tmp_path / "out", "out/model"), (recipe, "recipe.toml")):
        done = ep("train", recipe, "--out", folder)
        assert done.code == 1 and f"{taken} exists" in done.err


def test_training_prints_the_models_folder_alone(tmp_path: Path, ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_model(recipe: Any, folder: Path, stages: tuple[str, ...]) -> Path:
        print("full loss 0.1")
        seen.append((recipe.name, folder, stages))
        return folder / "model"

    seen: list[Any] = []
    monkeypatch.setattr("echoingpixels.train.run.train_model", train_model)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    done = ep("train", recipe, "--out", tmp_path, "--stage", "full", "--stage", "bank")
    assert (done.code, done.out, done.err) == (0, f"{tmp_path / 'model'}\n", "full loss 0.1\n")
    ep("train", recipe)
    assert seen == [("mine", tmp_path, ("full", "bank")), ("mine", Path("runs/mine"), ())]


def test_a_real_run_in_a_pipe_from_another_folder_has_no_warning(tmp_path: Path, film: Path, tiny: str) -> None:
    # --debug shows all warnings and log records, and -W error makes an error of a warning.
    words = command("--debug", "ask", film, QUESTION, "--model", tiny, "--max-new-tokens", "3", "--no-cache")
    done = subprocess.run(
        [words[0], "-W", "error", *words[1:]],
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        cwd=tmp_path,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    first, *notes = done.stderr.splitlines()
    assert first.startswith("video ") and all(line.startswith("note: ") for line in notes), done.stderr


def test_a_reader_that_leaves_is_no_traceback(film: Path, tiny: str) -> None:
    ends = os.pipe()
    os.close(ends[0])
    arguments = command("ask", film, QUESTION, "--model", tiny, "--max-new-tokens", "2")
    done = subprocess.run(
        arguments, stdout=ends[1], stderr=subprocess.PIPE, text=True, env=environment(), timeout=200, check=False
    )
    os.close(ends[1])
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_on_a_terminal_the_answer_is_streamed_before_one_line_of_statistics(ask: Any, film: Path, tiny: str) -> None:
    arguments = ("ask", film, QUESTION, "--model", tiny, "--max-new-tokens", "3")
    code, text = on_terminal(*arguments)
    assert code == 0 and "Loading" in text and "\x1b[" in text
    answer = ask(QUESTION).out.strip()
    assert answer in text and text.index(answer) < text.index("first token ")
    assert "video tokens" not in text and text.count("first token ") == 1


def test_on_a_terminal_the_report_is_a_table(film: Path, tiny: str) -> None:
    arguments = ("ask", film, QUESTION, "--model", tiny, "--max-new-tokens", "3", "--show", "--report")
    code, text = on_terminal(*arguments)
    assert code == 0
    assert "Loading" in text and "video tokens" in text and "tokens: " not in text
    assert "\x1b[" in text and "speedup (estimate)" in text and "audio over time" in text


def test_the_script_is_the_same_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"ep": "epcli.main:main"}


@pytest.mark.parametrize(("text", "value"), [("12.5", 12.5), ("1:30", 90.0), ("1:02:03.5", 3723.5), ("0", 0.0)])
def test_times_are_seconds_or_clock_times(text: str, value: float) -> None:
    assert seconds(text) == value


def test_bars_and_sparklines_have_one_width() -> None:
    assert {len(bar(share)) for share in (0, 0.001, 0.5, 1)} == {WIDTH}
    assert bar(0.001).count("█") == 1 and bar(0).count("█") == 0 and bar(1) == "█" * WIDTH
    line = sparkline([0.0, 0.0, 0.0, 9.99, 10.0], 10.0)
    assert (len(line), line[0], line[1], line.strip()[-1]) == (WIDTH, "█", " ", "▆")


def test_control_characters_are_printed_to_files_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out("a\x1b[2Jb\n")
    assert capsys.readouterr().out == "a\x1b[2Jb\n\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    out("a\x1b[2Jb\tc")
    assert capsys.readouterr().out == "a[2Jb\tc\n"


def test_plain_tables_are_aligned_and_plain_progress_is_rare(capsys: pytest.CaptureFixture[str]) -> None:
    columns(["a", "bb"], [["long", "x"], ["y", ""]])
    assert capsys.readouterr().out == "a     bb\nlong  x\ny\n"
    with progress("clips") as step:
        for done in range(1, 101):
            step(done, 100)
    assert capsys.readouterr().err == "clips 100 of 100\n"
