"""From a question file of any known format to rows. Knows nothing about models or scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError, OptionError
from .choices import LETTERS, letter_of, prompt, unlabelled
from .files import Files
from .formats import FORMATS, Format
from .questions import Bad, Row, read_object, read_rows, read_text, refuse
from .record import Item, Record

AUTO, OWN = "auto", "ep"
FORMAT_NAMES = (AUTO, OWN, *FORMATS)
KNOWN = f"Known formats: {', '.join(FORMAT_NAMES[1:])}."


def read_questions(
    path: Path,
    limit: int | None = None,
    format: str = AUTO,
    media: Path | None = None,
    bad: Bad = refuse,
    answers: bool = True,
) -> list[Row]:
    """Read at most `limit` questions; the format is told from the first record's keys if not said.

    `media`: the folder of the clips, if not the file's own. `bad` gets the DataError of a record that cannot be read;
    DataError names the folder where none of the clips is; a single missing clip is left to whoever reads it. Without
    `answers` rows of ep's and ms-swift's formats need none.
    """
    if format not in FORMAT_NAMES:
        raise OptionError(f"Unknown format {format!r}.", KNOWN)
    if media is not None and not media.is_dir():
        raise DataError(f"{media} is no folder.", "Give the folder of the clips with --media.")
    if format == OWN:
        return read_rows(path, limit, media, bad, answers)
    first = next(_records(path, lambda _: None), None)
    known = FORMATS.get(format) or (_format_of(first) if first else None)
    if known is None:
        return read_rows(path, limit, media, bad, answers)  # ours, or a file of which it says what is wrong
    found = (replace(record, answered=answers) for record in _records(path, bad))
    rows = list(islice(_rows(found, known, Files(media or path.parent), bad), limit))
    if not rows:
        raise DataError(f"{path} holds no question.", KNOWN)
    if not any(row.media.exists() for row in rows):
        hint = "Give the folder of the clips with --media."
        raise DataError(f"None of the clips is in {media or path.parent}, such as {rows[0].media.name}.", hint)
    return rows


def _format_of(record: Record) -> Format | None:
    return next((one for one in FORMATS.values() if one.fits(record.said)), None)


def _records(path: Path, bad: Bad) -> Iterator[Record]:
    """The objects of a JSON list, of a JSON object of objects, or of lines."""
    text = read_text(path, KNOWN)
    whole: Any = None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            whole = json.loads(text)
        except json.JSONDecodeError:
            whole = None  # lines
    if isinstance(whole, list):
        for number, said in enumerate(whole, 1):
            where = f"{path}, record {number}"
            if isinstance(said, dict):
                yield Record(said, where)
            else:
                bad(DataError(f"{where} is {said!r}, not an object.", KNOWN))
    elif isinstance(whole, dict) and whole and all(isinstance(said, dict) for said in whole.values()):
        for name, said in whole.items():  # WorldSense, by video
            yield Record({"video_id": name, **said}, f"{path}, {name}")
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    said = read_object(line, where, KNOWN)
                except DataError as error:
                    bad(error)
                    continue
                yield Record(said, where)


def _rows(records: Iterable[Record], known: Format, files: Files, bad: Bad) -> Iterator[Row]:
    number = 0
    for record in records:
        try:
            if not known.fits(record.said):
                raise record.error(f"is no {known.name} record: it has {', '.join(map(str, record.said)) or 'no keys'}")
            for item in known.read(record):
                number += 1
                yield _row(item, item.id or str(number), files.find(item.clip), record)
        except DataError as error:
            bad(error)


def _row(item: Item, id: str, media: Path, record: Record) -> Row:
    if not item.options:
        return Row(id, media, item.question, str(item.answer), item.kind, item.regime)
    options = unlabelled(item.options)
    letter = letter_of(item.answer, options) if 2 <= len(options) <= len(LETTERS) else None
    if letter is None:
        raise record.error(f"has the answer {item.answer!r}, which is none of its {len(options)} options")
    question = prompt(item.question, options)
    return Row(id, media, question, letter, item.kind, item.regime, choices=options)
