"""What is asked of one's own clips: rows of a question file, or plain questions that are asked of every clip.

A row that cannot be read is named and left out. Knows nothing about what is in a clip.
"""

from __future__ import annotations

from pathlib import Path

from ..datasets.questions import Row, read_plain
from ..datasets.reading import read_questions
from ..errors import DataError
from ..media.folder import find_clips
from ..options import check_question

PLAIN = ".txt"


def read_asked(path: Path, media: Path | None) -> tuple[list[Row], int]:
    """The questions of a file, answers empty where it has none, and how many rows were left out.

    `media`: the folder of the clips, if not the file's own. DataError where nothing can be read.
    """
    if path.suffix.lower() == PLAIN:
        return _plain(path, media or path.parent), 0
    bad: list[DataError] = []
    rows = []
    try:
        rows = read_questions(path, media=media, on_error=bad.append, answers=False)
    except DataError as error:
        if not bad:
            raise
        raise DataError(f"{error.message} {len(bad)} rows cannot be read: {bad[0].message}", bad[0].hint) from error
    for one in bad:
        print(f"left out: {one.message}", flush=True)
    return rows, len(bad)


def _plain(path: Path, folder: Path) -> list[Row]:
    """Every question of every clip in a folder."""
    questions = [check_question(line) for line in read_plain(path)]
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder.", "Name the folder of the clips as media in [data].")
    clips = find_clips(folder)
    return [Row(f"{clip.name}/{n}", clip, said, "") for clip in clips for n, said in enumerate(questions, 1)]
