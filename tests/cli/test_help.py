"""`ep --help` is quick: it knows the commands without loading what they need."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from echoingpixels import __version__
from tests.support.program import Program, command, environment

LIMIT_S = 0.4  # of processor time, which other work on the machine lengthens little
HEAVY = ("torch", "transformers", "av", "numpy", "soundfile", "PIL", "matplotlib")
COMMANDS = (
    "ask",
    "chat",
    "serve",
    "batch",
    "explain",
    "evaluate",
    "profile",
    "cache",
    "models",
    "doctor",
    "synth",
    "train",
)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_it_takes_less_than_0_4_seconds_of_processor_time(option: str) -> None:
    times = []
    for _ in range(5):
        began = _spent()
        subprocess.run(command(option), capture_output=True, env=environment(), check=True)
        times.append(_spent() - began)
        if times[-1] < LIMIT_S:
            return
    pytest.fail(f"the best of {len(times)} runs took {min(times):.2f} s")


def _spent() -> float:
    """Processor time (s) of the programs that have run."""
    times = os.times()
    return times.children_user + times.children_system


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom epcli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_interpreter_exits_without_a_search_for_garbage() -> None:
    code = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(len(gc.get_objects())))\n"  # after the functions registered later
        "from epcli.main import main\n"
        "main(['--version'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert int(done.stdout.splitlines()[-1]) < 1000


def test_the_version_is_the_packages(ep: Program) -> None:
    assert ep("--version").out == f"ep {__version__}\n"


def test_help_names_every_command(ep: Program) -> None:
    done = ep("--help")
    assert done.code == 0
    for name in COMMANDS:
        assert name in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, ep: Program) -> None:
    done = ep(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"ep {name}" in done.out


def test_help_names_every_reducer(ep: Program) -> None:
    shown = ep("ask", "--help").out
    assert all(name in shown for name in ("cs2", "relevance", "fastv", "repeats", "uniform", "random", "full"))


def test_no_command_at_all_is_wrong_usage_and_shows_the_help(ep: Program) -> None:
    done = ep()
    assert done.code == 2
    assert "Commands" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("answer",), "answer"),
        (("ask",), "media"),
        (("ask", "clip.mp4"), "question"),
        (("ask", "clip.mp4", "Who?", "--frames", "3"), "--frames"),
        (("ask", "clip.mp4", "Who?", "--fps", "few"), "--fps"),
        (("synth", "out"), "--clips"),
    ],
)
def test_wrong_usage_is_one_line_a_hint_and_exit_code_2(arguments: tuple[str, ...], said: str, ep: Program) -> None:
    done = ep(*arguments)
    first, hint = done.err.splitlines()
    assert done.code == 2
    assert first.startswith("error: ") and said in first
    assert hint.startswith("hint: See `ep ") and hint.endswith(" --help`.")
