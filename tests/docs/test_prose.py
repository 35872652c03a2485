"""tools/check_prose.py finds every rejected word and every long Markdown line, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import check_prose

ROOT = Path(__file__).parents[2]
word = st.sampled_from(sorted(check_prose.WORDS))


@given(word, st.sampled_from(["{}", "It {} now.", "({})", "`{}`", "a-{}-b", "# {}"]), st.integers(0, 5))
def test_each_word_is_found_at_its_line_in_any_case(word: str, around: str, before: int) -> None:
    for text in (word, word.upper(), word.capitalize()):
        (found,) = check_prose.check("plain\n" * before + around.format(text), markdown=False)
        assert (found.line, found.text, found.suggestion) == (before + 1, text, check_prose.WORDS[word])


@given(word)
def test_a_part_of_a_longer_word_is_not_found(word: str) -> None:
    for text in (f"re{word}", f"{word}s", f"_{word}", f"{word}_"):
        assert not check_prose.check(text, markdown=False)


@pytest.mark.parametrize("line_end", ["\n", "\n    # ", "\n> ", "\n * "])
def test_a_phrase_is_found_across_two_lines(line_end: str) -> None:
    phrase = next(word for word in check_prose.WORDS if " " in word)
    (found,) = check_prose.check(f"one\n{phrase.replace(' ', line_end)}", markdown=False)
    assert (found.line, found.text) == (2, phrase)


@given(st.integers(1, 300))
def test_a_long_line_is_found_in_markdown_alone(length: int) -> None:
    text = f"short\n{'x' * length}\n"
    found = check_prose.check(text, markdown=True)
    assert [finding.line for finding in found] == ([2] if length > 120 else [])
    assert not check_prose.check(text, markdown=False)


def test_the_program_prints_file_line_and_suggestion_and_fails(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.md", tmp_path / "good.md"
    first, second = list(check_prose.WORDS)[:2]
    bad.write_text(f"ok\n{second}\n{first}\n", encoding="utf-8")
    good.write_text("ok\n", encoding="utf-8")

    def run(*files: Path) -> tuple[int, str]:
        command = [sys.executable, str(ROOT / "tools/check_prose.py"), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env={"PYTHONUTF8": "1"})
        assert not done.stderr
        return done.returncode, done.stdout

    lines = [f"{bad}:{n}: {word} → {check_prose.WORDS[word]}\n" for n, word in ((2, second), (3, first))]
    assert run(good, bad) == (1, "".join(lines))
    assert run(good) == (0, "")


def test_files_of_every_kind_are_checked() -> None:
    names = {path.as_posix() for path in check_prose.tracked()}
    assert {"README.md", "Makefile", "pyproject.toml", "epcli/main.py", "recipes/tiny.toml"} <= names
    assert "tools/check_prose.py" not in names
    assert not any(name.startswith("tests/downloads") for name in names)


def test_make_lint_runs_it() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe and "\t$(BIN)/python tools/check_prose.py\n" in recipe[1]
