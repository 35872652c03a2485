"""`ep chat`: at a terminal with its keys, and from a pipe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import clips
from tests.support.program import ROOT, environment
from tests.support.terminal import Terminal

FIRST, LAST = "Which object appears first?", "Which sound is heard last?"


@pytest.fixture
def piped() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`ep chat` about the demo clip, with lines from a pipe."""

    def call(*lines: str, media: str = "models/echoingpixels/assets/demo.mp4") -> subprocess.CompletedProcess[str]:
        shell = [sys.executable, "-m", "epcli.main", "chat", media, "--model", "tiny", "--device", "cpu", "--no-cache"]
        given = "".join(f"{line}\n" for line in lines)
        return subprocess.run(
            shell, input=given, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=120
        )

    return call


def test_from_a_pipe_each_line_is_a_question_and_its_answer_a_line(
    piped: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file, text = tmp_path / "talk.json", tmp_path / "talk.txt"
    done = piped(FIRST, "", LAST, "/keep 0.05", "/reducer maxmin", FIRST, f"/save {file}", f"/save {text}", "/stats")
    answers = done.stdout.splitlines()
    assert done.returncode == 0 and len(answers) == 3 and ">>>" not in done.stdout + done.stderr
    assert re.match(r"demo\.mp4: 7\.0 s, 196 video tokens, 175 audio tokens, read in \d+\.\d\d s\n", done.stderr)
    assert len(re.findall(r" tokens \(\d+\.\d %\) · \d+\.\d\d s, first token", done.stderr)) == 3
    said = json.loads(file.read_text(encoding="utf-8"))
    assert [one["question"] for one in said] == [FIRST, LAST, FIRST]
    assert [one["answer"] for one in said] == answers
    assert [(one["reducer"], one["keep"]) for one in said] == [
        ("cs2-maxmin", 0.2),
        ("cs2-maxmin", 0.2),
        ("maxmin", 0.05),
    ]
    assert text.read_text(encoding="utf-8").startswith(f"> {FIRST}\n\n{answers[0]}\n\n> {LAST}\n\n")
    assert "kept: 5.1 % of the audio and video tokens, selected by maxmin" in done.stderr


def test_earlier_turns_and_the_part_of_the_clip_count(
    piped: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    lines = (FIRST, LAST, "/clear", FIRST, "/clip 0:01 3.5", FIRST, "/clip", FIRST, f"/save {file}")
    done = piped(*lines)
    assert done.returncode == 0
    assert [line.split(",")[0] for line in done.stderr.splitlines() if line.startswith("demo.mp4: ")] == [
        "demo.mp4: 7.0 s", "demo.mp4: 2.5 s", "demo.mp4: 7.0 s",
    ]  # fmt: skip
    first, _, third, _, fifth = done.stdout.splitlines()
    assert first == third == fifth == "cake"
    assert len(json.loads(file.read_text(encoding="utf-8"))) == 1  # `/clip` begins a new conversation


def test_a_second_file_is_part_of_the_next_question(
    piped: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    other = clips.write(tmp_path / "my film.mp4", clips.Film(seconds=1.0, tracks=(clips.Track(clips.beep(1.0, 0.5)),)))
    page = tmp_path / "page.html"
    done = piped(FIRST, f"/explain {page}", f"/add {other}", LAST, "/stats", f"/explain {tmp_path / 'no.html'}")
    assert done.returncode == 3 and len(done.stdout.splitlines()) == 2
    assert "evidence: none: The prompt has several clips, whose times overlap." in done.stderr
    assert page.stat().st_size > 10_000
    assert "error: The conversation has several files." in done.stderr


WRONG = {
    "/nope": "/nope is no command.",
    "/keep": "/keep takes RATIO.",
    "/keep lots": "/keep has 'lots', which is not a number.",
    "/keep 7": "keep is 7, outside (0, 1].",
    "/reducer best": "Unknown reducer 'best'.",
    "/clear all": "/clear takes nothing.",
    "/clip 5": "'5' is no start and end.",
    "/clip 5 2": "start (5 s) is not before end (2 s).",
    "/add nothing.mp4": "nothing.mp4 cannot be read: no such file or directory.",
    "/stats": "There is no answer yet.",
    "/save README.md": "README.md already exists.",
    "/explain page.txt": "There is no answer yet.",
}


def test_a_wrong_command_is_one_line_and_the_talk_goes_on(
    piped: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = piped(*WRONG, FIRST)
    assert (done.returncode, done.stdout) == (3, "cake\n")
    errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == list(WRONG.values())


def test_a_bad_file_ends_it_with_one_line(piped: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = piped(FIRST, media="README.md")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("error: ") == 1


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Programs at terminals, ended at the end."""
    started: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(*arguments, cache=tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_terminal_has_a_prompt_line_editing_and_a_history(terminal: Callable[..., Terminal]) -> None:
    program = ("-m", "epcli.main", "chat", "models/echoingpixels/assets/demo.mp4", "--model", "tiny", "--no-cache")
    talk = terminal(*program)
    talk.expect("(?s)read in .*>>>")
    talk.type("Which object appears lastX\x7f?" + "\x1b[D" * 5 + "\r")
    talk.expect("appears last")
    talk.expect(r"(?s)\n\w+.*first token.*>>>")
    talk.type('"""Which object\rappears first?"""\r')
    talk.expect(r"\.\.\. ")
    talk.expect(r"(?s)\n\w+.*first token.*>>>")
    talk.type("/ke\t")
    talk.expect("/keep")
    talk.type("0.05\r")
    talk.expect(">>>")
    talk.type("\x03")  # at the prompt it drops the line
    talk.expect(">>>")
    assert talk.leave("\x04") == 0
    again = terminal(*program)
    again.expect("(?s)read in .*>>>")
    again.type("\x1b[A")  # the latest line of the other run
    again.expect("/keep 0.05")
    assert again.leave("\x15/exit\r") == 0


def test_an_interrupt_ends_the_answer_and_keeps_what_was_said(terminal: Callable[..., Terminal]) -> None:
    talk = terminal("-m", "tests.support.slowchat")
    talk.expect(">>>")
    talk.type("Who?\r")
    talk.expect(r"(?s)Who\?.*\n.+")
    talk.expect(".")
    talk.type("\x03")
    talk.expect("(?s)stopped\n.*>>>")
    talk.type("And then?\r")
    talk.expect("(?s)first token.*>>>", 120)
    talk.leave("\x04")
    sizes = re.search(r"messages: system 28, user 4, assistant (\d+), user 9, assistant (\d+)", talk.seen)
    assert sizes is not None, talk.seen
    assert 0 < int(sizes[1]) < int(sizes[2])
