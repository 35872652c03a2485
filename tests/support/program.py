"""Running `ep`: in this process, or as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from threading import Thread

import pytest

from epcli.main import main

ROOT = Path(__file__).parents[2]
# What the C library keeps of freed blocks varies by hundreds of MB from run to run; with this it gives all of it back.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144"}


@dataclass(frozen=True)
class Done:
    """How a run ended."""

    code: int
    out: str
    err: str


class Program:
    """`ep` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Done:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = self.capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, printed.out, printed.err)


def call(*arguments: object) -> Done:
    """`ep` in this process, for fixtures that several tests share."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, int)
    return Done(end.value.code, out.getvalue(), err.getvalue())


def on_terminal(*arguments: object) -> tuple[int, str]:
    """`ep` in this process on a terminal of its own: its exit code and all that the terminal got."""
    reading, terminal = os.openpty()
    text: list[bytes] = []
    reader = Thread(target=_read, args=(reading, text))
    reader.start()
    with (
        os.fdopen(terminal, "w", encoding="utf-8") as stream,
        redirect_stdout(stream),
        redirect_stderr(stream),
        pytest.raises(SystemExit) as end,
    ):
        main([str(argument) for argument in arguments])
    reader.join()
    os.close(reading)
    assert isinstance(end.value.code, int)
    return end.value.code, b"".join(text).decode()


def _read(terminal: int, pieces: list[bytes]) -> None:
    with suppress(OSError):  # the other end is closed
        while piece := os.read(terminal, 4096):
            pieces.append(piece)


def command(*arguments: object) -> list[str]:
    """The command line of a real run."""
    return [sys.executable, "-m", "epcli.main", *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment of a real run: the working tree is importable from any folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "models"), str(ROOT)]), "PYTHONIOENCODING": "utf-8"}


def run(*arguments: object, cwd: Path | None = None) -> Done:
    """`ep` as a program of its own, in a pipe."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, encoding="utf-8", env=environment(), cwd=cwd, timeout=200
    )
    return Done(done.returncode, done.stdout, done.stderr)
