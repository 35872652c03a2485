"""Questions with known answers, and their own file format: JSON lines with media, question and answer."""

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

OnError = Callable[[DataError], None]  # receives the error of a row; if it returns, the row is skipped


def raise_error(error: DataError) -> None:
    """Stop at the first row that cannot be read."""
    raise error


@dataclass(frozen=True)
class Row:
    """One question about a clip.

    `kind`, `regime`: groups to report accuracy by, empty if the file has none. `options`: the possible answers, word
    for word. `choices`: lettered options that the question lists; the answer is then a letter.
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
        """The part of a file that the question is about."""
        return self.media, self.start, self.end


def read_rows(
    path: Path,
    limit: int | None = None,
    media: Path | None = None,
    on_error: OnError = raise_error,
    answers: bool = True,
) -> list[Row]:
    """Read at most `limit` questions; unknown keys are ignored.

    `media`: the folder of the clips, by default the file's own. `on_error` receives the DataError of a line that cannot
    be read, with file and line number. With `answers` False a row may lack its answer.
    """
    rows: list[Row] = []
    for number, line in enumerate(read_lines(path, NEEDED), 1):
        if line.strip() and (limit is None or len(rows) < limit):
            try:
                rows.append(_row(line, path, number, media or path.parent, answers))
            except DataError as error:
                on_error(error)
    if not rows:
        raise DataError(f"{path} contains no question.", NEEDED)
    return rows


def read_lines(path: Path, hint: str) -> list[str]:
    """The lines of a text file. DataError for a file that cannot be read."""
    return read_text(path, hint).split("\n")


def read_text(path: Path, hint: str) -> str:
    """The text of a UTF-8 file. DataError for a file that cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        hint = "Check the path." if isinstance(error, FileNotFoundError) else hint
        raise DataError(f"{path} cannot be read: {reason.lower()}.", hint) from error


def read_object(line: str, where: str, hint: str) -> dict[str, Any]:
    """The JSON object on one line. DataError, with `where`, for anything else."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}.", hint) from None
    if not isinstance(fields, dict):
        raise DataError(f"{where} is not a JSON object.", hint)
    return fields


def _row(line: str, path: Path, number: int, folder: Path, answers: bool) -> Row:
    where = f"{path}, line {number}"
    fields = read_object(line, where, NEEDED)
    unanswered = not answers and fields.get("answer") is None
    for key in ("media", "question") if unanswered else ("media", "question", "answer"):
        if not (isinstance(fields.get(key), str) and fields[key].strip() and is_unicode(fields[key])):
            what = f"has {key} {fields[key]!r}, not text" if key in fields else f"has no {key}"
            raise DataError(f"{where} {what}.", NEEDED)
    options, choices = (_texts(fields, key, where) for key in ("options", "choices"))
    question, answer = fields["question"], "" if unanswered else fields["answer"]
    if choices:
        choices = unlabelled(choices)
        question, letter = prompt(question, choices), "" if unanswered else letter_of(answer, choices)
        if letter is None or len(choices) > len(LETTERS):
            hint = "Give the letter of a choice, or its text."
            raise DataError(f"{where} has the answer {answer!r}, which is not one of its choices.", hint)
        answer = letter
    start, end = seconds(fields, "start", where), seconds(fields, "end", where)
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{where}: start ({start or 0:g} s) is not before end ({end:g} s).", "Fix the line.")
    return Row(
        id=str(fields.get("id", number)),
        media=folder / fields["media"],
        question=question,
        answer=answer,
        kind=str(fields.get("kind") or ""),
        regime=str(fields.get("regime") or ""),
        options=options,
        start=start,
        end=end,
        choices=choices,
    )


def _texts(fields: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = fields.get(key) or []
    if not (isinstance(value, list) and all(isinstance(text, str) and is_unicode(text) for text in value)):
        raise DataError(f"{where} has {key} {value!r}.", "Give a list of texts.")
    return tuple(value)


def seconds(fields: dict[str, Any], key: str, where: str) -> float | None:
    """A row's optional time in s. DataError, with `where`, for anything else."""
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise DataError(f"{where} has {key} {value!r}.", "Give a number of seconds, 0 or more.")
    return float(value)


def read_plain(path: Path) -> list[str]:
    """The questions of a text file, one on each line. DataError for a file without any."""
    questions = [line.strip() for line in read_lines(path, "Write one question on each line.") if line.strip()]
    if not questions:
        raise DataError(f"{path} contains no question.", "Write one question on each line.")
    return questions
