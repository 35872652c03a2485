"""Question data: one JSON object a line, with media, question and answer. Knows nothing about models or scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..options import is_unicode
from .choices import LETTERS, letter_of, prompt, unlabelled

NEEDED = "Each line is a JSON object with media, question and answer."


Bad = Callable[[DataError], None]  # takes what is wrong with a row; where it returns, the row is left out


def refuse(error: DataError) -> None:
    """A bad row ends the reading."""
    raise error


@dataclass(frozen=True)
class Row:
    """One question. `media` is resolved against the data file's folder; `kind` and `regime` are empty if not said.

    `options`: what may be answered, word for word. `choices`: lettered options, which the question shows; the answer is
    then a letter.
    """

    id: str
    media: Path
    question: str
    answer: str
    kind: str = ""
    regime: str = ""
    options: tuple[str, ...] = ()
    start: float | None = None  # s
    end: float | None = None  # s
    choices: tuple[str, ...] = ()

    @property
    def clip(self) -> tuple[Path, float | None, float | None]:
        """What has to be read to answer it."""
        return self.media, self.start, self.end


def read_rows(
    path: Path, limit: int | None = None, media: Path | None = None, bad: Bad = refuse, answers: bool = True
) -> list[Row]:
    """Read at most `limit` questions; other keys are left alone. `bad` gets the DataError of a row, with file and line.

    `media`: the folder of the clips, if not the file's own. Without `answers` a row needs none.
    """
    rows: list[Row] = []
    for number, line in enumerate(read_lines(path, NEEDED), 1):
        if line.strip() and (limit is None or len(rows) < limit):
            try:
                rows.append(_row(line, path, number, media or path.parent, answers))
            except DataError as error:
                bad(error)
    if not rows:
        raise DataError(f"{path} holds no question.", NEEDED)
    return rows


def read_lines(path: Path, hint: str) -> list[str]:
    """The lines of a text file; DataError where it is none."""
    return read_text(path, hint).split("\n")


def read_text(path: Path, hint: str) -> str:
    """A file's text; DataError where it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"{path} cannot be read: {reason.lower()}.", hint) from error


def read_object(line: str, where: str, hint: str) -> dict[str, Any]:
    """The JSON object on one line; DataError, which says `where`, for anything else."""
    try:
        said = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}.", hint) from None
    if not isinstance(said, dict):
        raise DataError(f"{where} is not a JSON object.", hint)
    return said


def _row(line: str, path: Path, number: int, folder: Path, answers: bool) -> Row:
    where = f"{path}, line {number}"
    said = read_object(line, where, NEEDED)
    unanswered = not answers and said.get("answer") is None
    for key in ("media", "question") if unanswered else ("media", "question", "answer"):
        if not (isinstance(said.get(key), str) and said[key].strip() and is_unicode(said[key])):
            what = f"has {key} {said[key]!r}, not text" if key in said else f"has no {key}"
            raise DataError(f"{where} {what}.", NEEDED)
    options, choices = (_texts(said, key, where) for key in ("options", "choices"))
    question, answer = said["question"], "" if unanswered else said["answer"]
    if choices:
        choices = unlabelled(choices)
        question, letter = prompt(question, choices), "" if unanswered else letter_of(answer, choices)
        if letter is None or len(choices) > len(LETTERS):
            hint = "Give the letter of a choice, or its text."
            raise DataError(f"{where} has the answer {answer!r}, which is none of its choices.", hint)
        answer = letter
    start, end = seconds(said, "start", where), seconds(said, "end", where)
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{where}: start ({start or 0:g} s) is not before end ({end:g} s).", "Mend the line.")
    return Row(
        id=str(said.get("id", number)),
        media=folder / said["media"],
        question=question,
        answer=answer,
        kind=str(said.get("kind") or ""),
        regime=str(said.get("regime") or ""),
        options=options,
        start=start,
        end=end,
        choices=choices,
    )


def _texts(said: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = said.get(key) or []
    if not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        raise DataError(f"{where} has {key} {value!r}.", "They are a list of texts.")
    return tuple(value)


def seconds(said: dict[str, Any], key: str, where: str) -> float | None:
    """A time in s that a row may give; DataError, which says `where`, for anything that is none."""
    value = said.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise DataError(f"{where} has {key} {value!r}.", "It is a number of seconds, 0 or more.")
    return float(value)


def read_plain(path: Path) -> list[str]:
    """The questions of a text file, one a line. DataError for a file that cannot be read or holds none."""
    questions = [line.strip() for line in read_lines(path, "Write one question a line.") if line.strip()]
    if not questions:
        raise DataError(f"{path} holds no question.", "Write one question a line.")
    return questions
