"""`ep batch` as a program: exit codes, what goes where, and being killed."""

from __future__ import annotations

import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epcli.main import main
from tests.support import clips
from tests.support.batches import rows
from tests.support.program import Done, command, environment

QUESTION = "Which object appears first?"
SHORT = ("--max-new-tokens", "4")
KILLS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of one second, each with a beep elsewhere: equal files would have equal keys."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(12):
        track = clips.Track(clips.beep(1.0, 0.05 * i))
        clips.write(folder / f"{i:02}.mp4", clips.Film(seconds=1.0, tracks=(track,)))
    return folder


def test_a_batch_in_pipes_says_what_goes_where(folder: Path, tmp_path: Path, ep: Any) -> None:
    (tmp_path / "bad.mp4").touch()
    out, questions = tmp_path / "out.csv", tmp_path / "questions.txt"
    questions.write_text(f"{QUESTION}\nIs the bell heard?\n")
    sources = (folder / "00.mp4", folder / "01.*", tmp_path / "bad.mp4")
    done = ep("batch", *sources, "--questions", questions, "--out", out, *SHORT, "--json")
    assert done.code == 3
    printed = [json.loads(line) for line in done.out.splitlines()]
    assert printed == rows(tmp_path / "out.csv.jsonl") and len(printed) == 6
    assert out.read_text().startswith("key,id,media,")
    said = dict(line.split(": ", 1) for line in done.err.splitlines() if ": " in line)
    assert said["answers"] == "4 of 6" and said["failed"] == "2 MediaError"
    assert said["mean keep"].startswith("0.2") and "clips/min" in said["speed"] and "%" in said["slower stage"]
    assert "tokens/s in decoding" in said["speed"]
    assert "\x1b" not in done.err + done.out
    again = ep("batch", *sources, "--questions", questions, "--out", out, *SHORT)
    assert (again.code, again.out) == (1, "") and "--resume" in again.err
    (tmp_path / "bad.mp4").write_bytes((folder / "02.mp4").read_bytes())
    resumed = ep("batch", *sources, "--questions", questions, "--out", out, *SHORT, "--resume")
    assert (resumed.code, resumed.out) == (0, "") and "answers: 2 of 6, 4 done before" in resumed.err
    assert len(rows(tmp_path / "out.csv.jsonl")) == len(out.read_text().splitlines()) - 1 == 6


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--out", "out.txt"), 2, "of an unknown file type"),
        (("--out", "out.jsonl", "--keep", "0"), 2, "keep is 0"),
        (("--out", "out.jsonl", "--engine", "spark"), 2, "Unknown engine"),
        (("--out", "out.jsonl", "--ray-address", "auto"), 2, "--ray-address"),
        (("--out", "out.jsonl", "--questions", "gone.txt"), 1, "gone.txt cannot be read"),
        (("--out", "gone/out.jsonl", "--question", "Who?"), 1, "cannot be written"),
        (("--out", "out.jsonl"), 2, "There is no question"),
        (("--question", "Who?"), 2, "--out"),
    ],
)
def test_the_command_checks_its_options(
    options: tuple[str, ...], code: int, said: str, folder: Path, ep: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done: Done = ep("batch", folder, *options)
    assert done.code == code and done.out == ""
    assert said in done.err.splitlines()[0]
    assert list(tmp_path.iterdir()) == []


def terminal(arguments: list[str], on_text: Callable[[str, subprocess.Popen[bytes]], None]) -> tuple[int, str]:
    """Run a program on a terminal of its own; `on_text` sees all it has shown, after each piece."""
    ours, theirs = pty.openpty()
    settings = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    program = subprocess.Popen(arguments, env={**environment(), "TERM": "xterm", "COLUMNS": "120"}, **settings)  # type: ignore[call-overload]
    os.close(theirs)
    text = ""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        text += piece.decode(errors="replace")
        on_text(text, program)
    os.close(ours)
    return program.wait(timeout=100), text


def test_ctrl_c_finishes_what_is_at_hand_and_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    out, sent = tmp_path / "out.jsonl", []
    many = [f"{QUESTION} {i}" for i in range(50)]  # of each clip: several padded batches, so that something is left
    asked = [word for question in many for word in ("--question", question)]

    def interrupt(text: str, program: subprocess.Popen[bytes]) -> None:
        if not sent and out.exists() and out.stat().st_size:
            sent.append(True)
            program.send_signal(signal.SIGINT)

    arguments = command("batch", folder, *asked, "--out", out, "--no-cache", *SHORT)
    code, text = terminal(arguments, interrupt)
    assert sent, text
    assert "answers" in text and "clips/min" in text  # the bar
    found = rows(out)
    assert code == 130, text
    assert "stopping after the current answers" in text
    whole = 12 * len(many)
    assert f"stopped: {len(found)} of {whole} rows" in " ".join(text.split()) and "--resume" in text
    assert 0 < len(found) < whole
    assert "Traceback" not in text


def forked(arguments: list[str], log: Path) -> int:
    """Run `ep` in a process made from this one, which has imported everything: a start costs little."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        main(arguments)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(99)


def kill_and_resume(folder: Path, tmp_path: Path, kills: int, draw: random.Random) -> None:
    """Kill a batch again and again, at once or after some rows; then let it finish and count."""
    out, log, lines = tmp_path / "out.jsonl", tmp_path / "log", 0
    asked = [
        "batch",
        str(folder),
        str(tmp_path / "bad.mp4"),
        "--question",
        QUESTION,
        "--question",
        "Is the bell heard?",
    ]
    (tmp_path / "bad.mp4").touch()
    arguments = [*asked, "--out", str(out), "--resume", *SHORT, "--cache-dir", str(tmp_path / "cache")]
    for kill in range(kills):
        child = forked(arguments, log)
        began, wanted, pause = time.monotonic(), draw.random() < 0.7, draw.uniform(0.0, 0.4)
        while wanted and time.monotonic() - began < 60:  # else it is killed as it starts
            if out.exists() and out.read_bytes().count(b"\n") != lines:
                break
            if os.waitpid(child, os.WNOHANG)[0]:
                break
            time.sleep(0.01)
        time.sleep(pause)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        if out.exists():
            data = out.read_bytes()
            lines = data.count(b"\n")
            whole = [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
            doubled = [key for key, n in Counter((row["key"], row["id"]) for row in whole).items() if n > 1]
            assert not doubled, f"after kill {kill}"
    _, status = os.waitpid(forked(arguments, log), 0)
    assert os.waitstatus_to_exitcode(status) == 3, log.read_text()[-2000:]
    found = rows(out)
    names = sorted(str(path) for path in folder.iterdir())
    assert sorted((row["id"], row["question"]) for row in found if not row["error"]) == sorted(
        (name, question) for name in names for question in (QUESTION, "Is the bell heard?")
    )
    assert len(found) == 2 * len(names) + 2 and len({(row["key"], row["id"]) for row in found}) == len(found)
    shutil.rmtree(tmp_path / "cache")
    fresh = [*arguments[: arguments.index("--out")], "--out", str(tmp_path / "fresh.jsonl"), *SHORT, "--no-cache"]
    os.waitpid(forked(fresh, log), 0)
    same = {(row["key"], row["id"]): row["answer"] for row in rows(tmp_path / "fresh.jsonl")}
    assert same == {(row["key"], row["id"]): row["answer"] for row in found}


@pytest.fixture
def warm(ep: Any, folder: Path, tmp_path: Path) -> None:
    """What every run imports, imported here."""
    assert ep("batch", folder / "00.mp4", "--question", "Who?", "--out", tmp_path / "warm.jsonl", *SHORT).code == 0


@pytest.mark.usefixtures("warm")
def test_killed_a_few_times_it_has_every_row_once(folder: Path, tmp_path: Path) -> None:
    kill_and_resume(folder, tmp_path, KILLS, random.Random(0))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("warm")
def test_killed_a_hundred_times_it_has_every_row_once(folder: Path, tmp_path: Path) -> None:
    for name in range(20, 160):  # as many more clips
        track = clips.Track(clips.beep(1.0, 0.005 * name))
        clips.write(folder / f"{name:03}.mp4", clips.Film(seconds=1.0, tracks=(track,)))
    kill_and_resume(folder, tmp_path, 100, random.Random(1))


def test_killed_outright_the_real_program_resumes(folder: Path, tmp_path: Path, ep: Any) -> None:
    out = tmp_path / "out.parquet"
    journal = tmp_path / "out.parquet.jsonl"
    arguments = ("batch", folder, "--question", QUESTION, "--out", out, *SHORT, "--workers", "2")
    with subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.DEVNULL) as program:
        until = time.monotonic() + 100
        while time.monotonic() < until and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.01)
        program.kill()
    assert not out.exists() and journal.stat().st_size
    done = ep(*arguments, "--resume")
    assert done.code == 0, done.err
    from pyarrow.parquet import read_table

    ids = read_table(out).column("id").to_pylist()
    assert sorted(ids) == sorted(str(path) for path in folder.iterdir())
