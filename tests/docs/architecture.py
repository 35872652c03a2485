"""The module list of docs/architecture.md: `python -m tests.docs.architecture --write` renews it, a test compares.

The part above the mark is written by hand. Below it stand the import levels and one line per module.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.core.test_architecture import LEVELS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/architecture.md"
WRITE = "python -m tests.docs.architecture --write"
MARK = f"<!-- Everything below is written by `{WRITE}`. -->"
LIBRARY = "models/echoingpixels"
ROOTS = (LIBRARY, "epcli", "tools", "bench")
WIDTH = 120
SENTENCE = re.compile(r"(?P<first>.+?[.?!])(?:\s|$)", re.S)


def page(written: str) -> str:
    """The whole page, with the part above the mark of what is written now."""
    head, mark, _ = written.partition(MARK)
    if not mark:
        raise ValueError(f"{PAGE} lacks the line {MARK}")
    return f"{head}{MARK}\n\n" + "\n".join([*levels(), *modules()])


def levels() -> Iterator[str]:
    """A table of the import levels."""
    yield from ("## Import levels", "", "Imports point from a level to the levels above it; a test checks this.", "")
    yield from ("| level | packages and modules |", "|---|---|")
    for number, names in enumerate(LEVELS, 1):
        shown = (f"`{name}/`" if (ROOT / LIBRARY / name).is_dir() else f"`{name}`" for name in sorted(names))
        yield f"| {number} | {', '.join(shown)} |"
    yield ""


def modules() -> Iterator[str]:
    """A section for each package, with a line for each module."""
    yield from ("## Modules", "")
    for root in ROOTS:
        for folder in folders(ROOT / root):
            yield from (f"### {folder.relative_to(ROOT).as_posix().removeprefix('models/')}", "")
            about = folder / "__init__.py"
            if about.exists():
                yield from (*textwrap.wrap(first_sentence(about), WIDTH), "")
            for file in files(folder):
                yield from line(file)
            yield ""


def folders(root: Path) -> list[Path]:
    """A root and the folders below it that hold modules, in alphabetical order."""
    found = {file.parent for file in root.rglob("*.py")}
    return sorted(found, key=lambda folder: folder.relative_to(ROOT).parts)


def files(folder: Path) -> list[Path]:
    """The modules of a package, its `__init__` left out."""
    return sorted(file for file in folder.glob("*.py") if file.name != "__init__.py")


def line(file: Path) -> list[str]:
    """One module's entry in the list, wrapped."""
    text = f"- `{file.name}`: {first_sentence(file)}"
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring."""
    about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not about:
        raise ValueError(f"{file} has no docstring")
    found = SENTENCE.match(about)
    return " ".join((found["first"] if found else about).split())


def main(arguments: list[str]) -> None:
    """Write the page."""
    if arguments != ["--write"]:
        sys.exit(f"usage: {WRITE}")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
