"""From files, folders, patterns, JSONL files and addresses to clips with questions."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..datasets.questions import read_lines, read_object, seconds
from ..errors import DataError, MediaError, OptionError
from ..media.folder import ENDINGS, find_clips
from ..options import check_question, is_unicode
from .job import Task, Wanted
from .remote import find_remote, is_remote

ROWS = ".jsonl"
NEEDED = "Each line is a JSON object with media, and question, id, start and end if you like."
NO_QUESTION = "Give --question or --questions, or rows with a question each."


def find_tasks(sources: Iterable[str], questions: Sequence[str] = ()) -> list[Task]:
    """All clips with their questions, in order; rows about the same part of a clip form one task.

    Clips and rows without a question of their own get `questions`. OptionError without any question; MediaError for a
    missing source; DataError for an invalid row.
    """
    grouped: dict[tuple[str, float | None, float | None], dict[Wanted, None]] = {}
    for source in sources:
        for media, wanted, start, end in _rows(source, tuple(map(check_question, questions))):
            grouped.setdefault((media, start, end), {}).update(dict.fromkeys(wanted))
    if not grouped:
        raise OptionError("There is nothing to read.", "Give files, folders, patterns, JSONL files or addresses.")
    return [Task(media, tuple(wanted), start, end) for (media, start, end), wanted in grouped.items()]


Found = tuple[str, list[Wanted], float | None, float | None]


def _rows(source: str, questions: tuple[str, ...]) -> Iterator[Found]:
    if source.lower().endswith(ROWS) and not is_remote(source):
        yield from _file_rows(Path(source), questions)
        return
    if not questions:
        raise OptionError(f"There is no question about {source}.", NO_QUESTION)
    for media in _clips(source):
        yield media, [Wanted(media, question) for question in questions], None, None


def _clips(source: str) -> list[str]:
    """The clips of a source. Any existing file counts; whether it is media is known when it is read."""
    if is_remote(source):
        return find_remote(source, ENDINGS)
    path = Path(source)
    if path.is_dir():
        return [str(clip) for clip in find_clips(path)]
    if path.exists():
        return [source]
    found = sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) else []
    clips = [file for file in found if Path(file).is_file()]
    if not clips:
        raise MediaError(f"{source} cannot be read: no such file or folder.", "Check the path.")
    return clips


def _file_rows(path: Path, questions: tuple[str, ...]) -> Iterator[Found]:
    any_row = False
    for number, line in enumerate(read_lines(path, NEEDED), 1):
        if line.strip():
            any_row = True
            yield _row(read_object(line, f"{path}, line {number}", NEEDED), path, number, questions)
    if not any_row:
        raise DataError(f"{path} holds no row.", NEEDED)


def _row(row: dict[str, Any], path: Path, number: int, questions: tuple[str, ...]) -> Found:
    where = f"{path}, line {number}"
    media, own = row.get("media"), row.get("question")
    if not (isinstance(media, str) and media.strip() and is_unicode(media)):
        raise DataError(f"{where} has media {json.dumps(media)}, which is no path or address.", NEEDED)
    if own is not None and not (isinstance(own, str) and own.strip() and is_unicode(own)):
        raise DataError(f"{where} has question {json.dumps(own)}, not text.", NEEDED)
    asked = questions if own is None else (own,)
    if not asked:
        raise OptionError(f"{where} has no question.", NO_QUESTION)
    start, end = seconds(row, "start", where), seconds(row, "end", where)
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{where}: start ({start or 0:g} s) is not before end ({end:g} s).", "Mend the line.")
    place = media if is_remote(media) else str(path.parent / media)
    return place, [Wanted(str(row.get("id", place)), question) for question in asked], start, end
