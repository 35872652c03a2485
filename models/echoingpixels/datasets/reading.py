"""Question files of every known format, read into rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError, OptionError
from .choices import LETTERS, letter_of, prompt, unlabelled
from .duration import duration_class
from .files import Files
from .formats import FORMATS, Format
from .questions import OnError, Row, raise_error, read_object, read_rows, read_text
from .record import Record

AUTO, OWN = "auto", "ep"
FORMAT_NAMES = (AUTO, OWN, *FORMATS)
KNOWN = f"Known formats: {', '.join(FORMAT_NAMES[1:])}."


def read_questions(
    path: Path,
    limit: int | None = None,
    format: str = AUTO,
    media: Path | None = None,
    on_error: OnError = raise_error,
    answers: bool = True,
) -> list[Row]:
    """Read at most `limit` questions; "auto" recognises the format by the first record's keys.

    `media`: the folder of the clips, by default the file's own. `on_error` receives the DataError of a record that
    cannot be read. DataError where none of the clips exists; a single missing clip is not an error here. With `answers`
    False a row may lack its answer.
    """
    if format not in FORMAT_NAMES:
        raise OptionError(f"Unknown format {format!r}.", KNOWN)
    if media is not None and not media.is_dir():
        raise DataError(f"{media} is not a folder.", "Give the folder of the clips with --media.")
    form = _recognised(path) if format == AUTO else FORMATS.get(format)
    if form is None:  # ep's own format, or a file of which read_rows reports the error
        return read_rows(path, limit, media, on_error, answers)
    folder = media or path.parent
    rows = list(islice(_rows(path, form, Files(folder), on_error, answers), limit))
    if not rows:
        raise DataError(f"{path} contains no question.", KNOWN)
    if not any(os.path.exists(row.media) for row in rows):
        hint = "Give the folder of the clips with --media."
        raise DataError(f"None of the clips is in {folder}, such as {rows[0].media.name}.", hint)
    return rows


def _recognised(path: Path) -> Format | None:
    """The first format that the first readable record fits."""
    first = next(_records(path, lambda _: None), None)
    return None if first is None else next((form for form in FORMATS.values() if form.fits(first.fields)), None)


def _records(path: Path, on_error: OnError, needs_answer: bool = True) -> Iterator[Record]:
    """The objects of a JSON list, of a JSON object of objects, or of JSON lines."""
    text = read_text(path, KNOWN)
    whole: Any = None
    if text.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError):  # not one value, but lines
            whole = json.loads(text)
    if isinstance(whole, list):
        for number, value in enumerate(whole, 1):
            where = f"{path}, record {number}"
            if isinstance(value, dict):
                yield Record(value, where, number, needs_answer)
            else:
                on_error(DataError(f"{where} is {value!r}, not an object.", KNOWN))
    elif isinstance(whole, dict) and whole and all(isinstance(value, dict) for value in whole.values()):
        for number, (name, value) in enumerate(whole.items(), 1):  # WorldSense, by video
            yield Record({"video_id": name, **value}, f"{path}, {name}", number, needs_answer)
    else:
        for number, line in enumerate(text.split("\n"), 1):
            where = f"{path}, line {number}"
            if line.strip():
                try:
                    value = read_object(line, where, KNOWN)
                except DataError as error:
                    on_error(error)
                else:
                    yield Record(value, where, number, needs_answer)


def _rows(path: Path, form: Format, files: Files, on_error: OnError, answers: bool) -> Iterator[Row]:
    for record in _records(path, on_error, answers):
        try:
            if not form.fits(record.fields):
                keys = ", ".join(record.fields) or "no keys"
                raise record.error(f"does not have the {form.name} format: it has {keys}")
            for part in form.expand(record):
                yield _row(part, form, files)
        except DataError as error:
            on_error(error)


def _row(record: Record, form: Format, files: Files) -> Row:
    """The row of a record that has the keys of its format."""
    name, question = record.text(form.media), record.text(form.question)
    answer = _answer(record, form)
    options = unlabelled(record.texts(form.options)) if form.options else ()
    row = Row(
        id=record.label(form.id) or str(record.number),
        media=files.find([pattern.format(name) for pattern in form.files]),
        question=prompt(question, options) if options else question,
        answer=str(answer),
        kind=record.label(form.kind),
        regime=record.label(form.regime) or duration_class(record.fields.get(form.duration)),
        choices=options,
    )
    if not options or answer == "":
        return row
    letter = letter_of(answer, options) if 2 <= len(options) <= len(LETTERS) else None
    if letter is None:
        raise record.error(f"has the answer {answer!r}, which is not one of its {len(options)} options")
    return replace(row, answer=letter)


def _answer(record: Record, form: Format) -> str | int:
    """The answer as the record has it; empty where it lacks one and needs none."""
    value = record.fields.get(form.answer)
    if value is None and not record.needs_answer:
        return ""
    if not form.index_answer:
        return record.text(form.answer)
    if isinstance(value, bool) or not isinstance(value, int):
        raise record.error(f"has answer {value!r}, not the index of an option")
    return value
