"""The recipes of CONTRIBUTING.md work when they are followed to the letter, in a copy of the project."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LIBRARY = "models/echoingpixels"
NEW = re.compile(
    r"^\d+\. (?:Write|Test)[^\n`]*`((?:models|epcli|tests)/[^`]+\.py)`.*?\n\n    ```python\n(.*?)\n    ```", re.M | re.S
)


def recipes() -> dict[str, str]:
    """The files that the recipes show in full, by path."""
    steps = re.split(r"\n(?=\d+\. |## )", TEXT)
    found = [match for step in steps if (match := NEW.match(step + "\n"))]
    return {match[1]: textwrap.dedent(match[2]) + "\n" for match in found}


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


def follow(root: Path) -> list[str]:
    """Do what the recipes say; the new test files."""
    shown = recipes()
    score = shown.pop(f"{LIBRARY}/reducers/score.py")
    for path, text in shown.items():
        (root / path).write_text(text, encoding="utf-8")
    replace(
        root / LIBRARY / "reducers/score.py",
        "NONE = Scorer(reads_question=False)",
        f"{score}NONE = Scorer(reads_question=False)",
    )
    registry = root / LIBRARY / "reducers/registry.py"
    (line,) = re.findall(r"Add `(.*),` at the end of `REDUCERS`", TEXT)
    replace(registry, "Whole()),\n}", f"Whole()),\n    {line},\n}}")
    replace(registry, "NOVELTY, RELEVANCE,", "NOVELTY, RECENT, RELEVANCE,")
    replace(root / LIBRARY / "reducer_names.py", '"random", "full"),', '"random", "full", "recent"),')

    loading = root / LIBRARY / "checkpoints/loading.py"
    (ending,) = re.findall(r"    ```python\n(    kind = .*?)\n    ```", TEXT, re.S)
    replace(loading, f"    {textwrap.dedent(ending).splitlines()[1].replace('kind(', 'QwenOmni(')}", ending)
    importing = "from ..backbones.qwen_omni import QwenOmni\n"
    replace(loading, importing, f"from ..backbones.one_line import OneLine\n{importing}")

    main = root / "epcli/main.py"
    importing = "from .commands.doctor import doctor\n"
    replace(main, importing, f"from .commands.describe import describe\n{importing}")
    replace(main, "for command in (ask,", "for command in (ask, describe,")
    replace(root / "tests/cli/test_help.py", '    "ask",\n', '    "ask",\n    "describe",\n')
    return [path for path in shown if path.startswith("tests/")]


def test_every_step_that_shows_a_file_is_found() -> None:
    assert sorted(recipes()) == [
        "epcli/commands/describe.py",
        f"{LIBRARY}/backbones/one_line.py",
        f"{LIBRARY}/reducers/score.py",
        "tests/backbones/test_one_line.py",
        "tests/cli/test_describe.py",
        "tests/reducers/test_recent.py",
    ]
    for text in recipes().values():
        ast.parse(text)


def test_every_file_that_the_page_names_exists_or_is_made_by_a_recipe() -> None:
    named = set(re.findall(r"`((?:models|epcli|tests|tools|docs)/[\w/.-]+\.(?:py|md))`", TEXT))
    assert named
    assert {path for path in named if not (ROOT / path).exists()} <= set(recipes())


@pytest.mark.slow
def test_the_recipes_work_to_the_letter(tmp_path: Path) -> None:
    assets = Path(LIBRARY) / "assets"
    skipped = shutil.ignore_patterns("__pycache__", "assets", "downloads", "data")
    for folder in ("models", "epcli", "tests", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / assets).symlink_to(ROOT / assets)
    tests = follow(tmp_path)
    paths = os.pathsep.join([str(tmp_path), str(tmp_path / "models")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "tests/cli/test_help.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
