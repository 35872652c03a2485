"""Reject words that have a plainer standard term, and long Markdown lines: `python tools/check_prose.py [FILE...]`.

Prints one line per finding and exits with 1 if there is any. Without arguments it checks every file that git knows.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORDS = {
    "anew": "again; recomputed",
    "sought": "scored; searched for",
    "looked": "encoded; read",
    "whoever": "anyone who",
    "over again": "again; repeated",
    "so many of": "N of; the required number of",
    "is said": "is reported",
    "was said": "was reported; was generated",
    "is told": "is reported; receives",
}
BETWEEN = r"[\s#*>/]+"  # the words of a phrase may stand on two lines of a comment or a quotation
FOUND = re.compile(r"\b(?:" + "|".join(re.sub(" ", lambda _: BETWEEN, word) for word in WORDS) + r")\b", re.I)
WIDTH = 120  # characters of a Markdown line
SUFFIXES = {".py", ".md", ".toml", ".yml", ".yaml", ".html", ".js", ".css"}
NAMES = {"Makefile"}


@dataclass(frozen=True)
class Finding:
    """One thing to change."""

    line: int
    text: str
    suggestion: str


def check(text: str, markdown: bool) -> list[Finding]:
    """All findings in a file's text, in order of lines."""
    found = list(words(text))
    if markdown:
        found += long_lines(text)
    return sorted(found, key=lambda finding: finding.line)


def words(text: str) -> Iterator[Finding]:
    """The rejected words and phrases."""
    for match in FOUND.finditer(text):
        word = re.sub(BETWEEN, " ", match[0])
        yield Finding(text.count("\n", 0, match.start()) + 1, word, WORDS[word.lower()])


def long_lines(text: str) -> Iterator[Finding]:
    """The lines that are too long, tables and addresses among them: a reference link shortens both."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > WIDTH:
            yield Finding(number, f"{len(line)} characters", f"at most {WIDTH}")


def tracked() -> list[Path]:
    """Every file to check that git knows and does not ignore, without this one, which lists the words."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.split("\0")
    paths = [path for path in map(Path, sorted(names)) if path.suffix in SUFFIXES or path.name in NAMES]
    return [path for path in paths if path.is_file() and path.resolve() != Path(__file__).resolve()]


def main(arguments: list[str]) -> int:
    """Check the given files, or all; the exit code."""
    findings = 0
    for path in map(Path, arguments) if arguments else tracked():
        for finding in check(path.read_text(encoding="utf-8"), path.suffix == ".md"):
            findings += 1
            print(f"{path}:{finding.line}: {finding.text} → {finding.suggestion}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
