"""What the README tells a newcomer to run is run."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from typer.main import get_command

from epcli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_python_quick_start_runs_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = blocks("python")
    said = io.StringIO()
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(said):
        exec(code, names)
    text, ratio = said.getvalue().rsplit(maxsplit=1)
    assert text.strip()
    assert float(ratio) == pytest.approx(0.1, abs=0.01)
    assert getattr(names["answer"], "text") == text.strip()  # noqa: B009


def test_ci_runs_every_make_target_the_readme_names() -> None:
    (commands,) = blocks("sh")
    targets = re.findall(r"^make (\w+)", commands, re.M)
    check = re.search(r"^check: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert targets == ["demo", "test"]
    assert check and set(targets) <= set(check.group(1).split())


def test_every_command_and_option_the_readme_names_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name in set(re.findall(r"`ep (\w+)", README)) - {"COMMAND"}:
        assert name in commands, name
    known = {option for command in commands.values() for p in command.params for option in p.opts}
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)):
        assert option in known | {"--help"}, option
