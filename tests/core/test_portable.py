"""Without the modules that only Unix has, as on Windows, the library is imported and the commands work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from echoingpixels import report as stats
from echoingpixels.batch.journal import read_journal
from echoingpixels.media import Worker
from echoingpixels.media.sandbox import worker as reading
from echoingpixels.train.run import point
from tests.support.program import ROOT, Done, Program, environment

UNIX = ("fcntl", "grp", "pwd", "resource", "termios", "tty")
DEMO = ROOT / "models/echoingpixels/assets/demo.mp4"
# Other libraries choose theirs by platform, so the modules are hidden from ours alone.
HIDE = f"""
import builtins, sys
real = builtins.__import__
def hiding(name, globals=None, *more, **named):
    if name in {UNIX} and (globals or {{}}).get("__name__", "").startswith(("echoingpixels", "epcli")):
        raise ImportError(name)
    return real(name, globals, *more, **named)
builtins.__import__ = hiding
"""


def run(code: str, *arguments: object, cwd: Path) -> Done:
    """A program in which Unix's modules are missing, with a pipe that is not UTF-8."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="cp1252",
        env={**environment(), "PYTHONIOENCODING": "cp1252"},
        cwd=cwd,
        timeout=200,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def unix_less(*arguments: object, cwd: Path) -> Done:
    return run("from epcli.main import main\nmain()", *arguments, cwd=cwd)


def test_every_module_is_imported(tmp_path: Path) -> None:
    names = [
        ".".join(path.relative_to(folder).with_suffix("").parts)
        for folder, package in ((ROOT / "models", "echoingpixels"), (ROOT, "epcli"))
        for path in sorted((folder / package).rglob("*.py"))
        if "assets" not in path.parts and path.stem not in ("__init__", "lmms")  # lmms needs lmms-eval
    ]
    done = run("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *names, cwd=tmp_path)
    assert done.code == 0 and len(names) > 100, done.err


@pytest.mark.parametrize("arguments", [("--help",), ("models", "--help"), ("models",)], ids=" ".join)
def test_commands_without_a_clip_work(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = unix_less(*arguments, cwd=tmp_path)
    assert done.code == 0 and done.out and done.err in ("", "auto is tiny, quantization none: no CUDA device\n")


def test_a_question_is_answered(tmp_path: Path) -> None:
    done = unix_less("ask", DEMO, "Which object appears first? →", "--json", "--no-cache", cwd=tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["answer"]


def test_a_batch_is_resumed(tmp_path: Path) -> None:
    arguments = ("batch", DEMO, "--question", "Which object appears first?", "--out", "rows.jsonl", "--no-cache")
    for more in ((), ("--resume",)):
        done = unix_less(*arguments, *more, cwd=tmp_path)
        assert done.code == 0, done.err
    assert len(list(read_journal(tmp_path / "rows.jsonl"))) == 1


def test_files_are_read_in_this_process_where_no_other_can_share_memory(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Worker() as apart:
        expected = apart.read(film)
    monkeypatch.setattr(reading, "ISOLATED", False)
    with Worker() as worker:
        worker.start()
        worker.check(film)
        clip = worker.read(film)
        assert worker.pid is None
    assert (clip.frames == expected.frames).all() and (clip.audio == expected.audio).all()


def test_memory_that_cannot_be_measured_is_null(
    film: Path, tiny: str, ep: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "Path", lambda _: Path("/nowhere"))
    monkeypatch.setitem(sys.modules, "resource", None)
    done = ep("ask", film, "Who?", "--model", tiny, "--max-new-tokens", 1, "--json")
    assert json.loads(done.out)["memory_bytes"]["peak"] is None
    plain = ep("ask", film, "Who?", "--model", tiny, "--max-new-tokens", 1, "--compare")
    assert plain.code == 0 and "memory: weights" in plain.err and "peak" not in plain.err


def test_a_model_is_copied_where_links_are_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    for stage in ("first", "second"):
        made = tmp_path / "stages" / stage
        made.mkdir(parents=True)
        (made / "weights").write_text(stage)
        point(tmp_path / "model", made)
        assert (tmp_path / "model/weights").read_text() == stage
