"""docs/architecture.md lists every module with the first sentence of its docstring."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import architecture


def test_the_page_lists_the_modules_of_today() -> None:
    written = architecture.PAGE.read_text(encoding="utf-8")
    assert written == architecture.page(written), f"docs/architecture.md is out of date: run `{architecture.WRITE}`"


def test_the_page_names_every_module() -> None:
    text = architecture.PAGE.read_text(encoding="utf-8")
    for root in architecture.ROOTS:
        modules = [file for file in (architecture.ROOT / root).rglob("*.py") if file.name != "__init__.py"]
        assert modules, root
        for file in modules:
            assert f"- `{file.name}`: " in text, file


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One.", "One."),
        ("Reads v1.5 files, on\ntwo lines. And more.", "Reads v1.5 files, on two lines."),
        ("Runs `python -m x`: a test compares.\n\nMore.", "Runs `python -m x`: a test compares."),
        ("no full stop", "no full stop"),
    ],
)
def test_a_module_is_described_by_its_first_sentence(docstring: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(f'"""{docstring}"""\n', encoding="utf-8")
    assert architecture.first_sentence(file) == sentence


def test_a_module_without_a_docstring_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no docstring"):
        architecture.first_sentence(file)
