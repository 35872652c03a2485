"""What a batch is about: every way to name clips and questions."""

from __future__ import annotations

import functools
import http.server
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.batch import remote
from echoingpixels.batch.remote import fetched, remote_mark
from echoingpixels.batch.sources import find_tasks
from echoingpixels.batch.table import write_table
from echoingpixels.datasets.questions import read_plain
from echoingpixels.errors import DataError, MediaError, OptionError
from echoingpixels.media import read_clip
from tests.support.web import serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files by name alone: nothing here looks into them."""
    for name in ("b.mp4", "a.mkv", "sub/c.wav", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def found(*sources: object, questions: tuple[str, ...] = ("Who?",)) -> list[tuple[str, list[str]]]:
    tasks = find_tasks(map(str, sources), questions)
    return [(Path(task.media).name, [wanted.question for wanted in task.rows]) for task in tasks]


def test_files_folders_and_patterns(folder: Path) -> None:
    both = ("Who?", "Where?")
    assert found(folder, questions=both) == [(name, list(both)) for name in ("a.mkv", "b.mp4", "c.wav")]
    assert found(folder / "*.mp4") == [("b.mp4", ["Who?"])]
    assert [name for name, _ in found(folder / "**" / "*.wav", folder / "notes.txt")] == ["c.wav", "notes.txt"]
    assert found(folder / "b.mp4", folder) == [(name, ["Who?"]) for name in ("b.mp4", "a.mkv", "c.wav")]


@pytest.mark.parametrize("name", ["gone.mp4", "*.avi", "gone/"])
def test_a_source_that_is_not_there_is_an_error(name: str, folder: Path) -> None:
    with pytest.raises(MediaError, match="no such file or folder"):
        found(folder / name)


def test_something_must_be_asked(folder: Path) -> None:
    with pytest.raises(OptionError, match="There is no question") as error:
        found(folder, questions=())
    assert "--question" in error.value.hint
    with pytest.raises(OptionError, match="empty"):
        found(folder, questions=(" ",))


def rows_file(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_rows_about_one_part_of_a_clip_are_read_once(folder: Path) -> None:
    rows = [
        {"media": "b.mp4", "question": "One?", "id": 7},
        {"media": "a.mkv", "answer": "ignored"},
        {"media": "b.mp4", "question": "Two?", "id": "x"},
        {"media": "b.mp4", "question": "Three?", "start": 1, "end": 2.5},
        {"media": "s3://bucket/a.mp4", "question": "Four?"},
    ]
    tasks = find_tasks([str(rows_file(folder, *rows))], ["All?"])
    place = str(folder / "b.mp4")
    assert [(task.media, task.start, task.end) for task in tasks] == [
        (place, None, None), (str(folder / "a.mkv"), None, None), (place, 1.0, 2.5), ("s3://bucket/a.mp4", None, None)
    ]  # fmt: skip
    asked = [[(wanted.id, wanted.question) for wanted in task.rows] for task in tasks]
    assert asked[:2] == [[("7", "One?"), ("x", "Two?")], [(str(folder / "a.mkv"), "All?")]]
    assert asked[2:] == [[(place, "Three?")], [("s3://bucket/a.mp4", "Four?")]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2 is not JSON"),
        ({"question": "Who?"}, "line 2 has media null"),
        ({"media": 3}, "line 2 has media 3"),
        ({"media": "b.mp4", "question": ["Who?"]}, "line 2 has question"),
        ({"media": "b.mp4", "start": -1}, "line 2 has start -1"),
        ({"media": "b.mp4", "start": 2, "end": 1}, "line 2: start"),
    ],
)
def test_a_bad_row_is_named(row: Any, said: str, folder: Path) -> None:
    with pytest.raises(DataError, match=said):
        found(rows_file(folder, {"media": "a.mkv"}, row))


def test_questions_come_from_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text("Who?\n\n  Where is it?  \r\n")
    assert read_plain(path) == ["Who?", "Where is it?"]
    path.write_text("\n")
    with pytest.raises(DataError, match="contains no question"):
        read_plain(path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def web(film: Path) -> Iterator[str]:
    """The address of the film's folder on a server of its own."""
    pytest.importorskip("aiohttp", reason="it would have proved that clips are fetched")
    handler = functools.partial(Quiet, directory=str(film.parent))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_a_clip_behind_an_address_is_fetched_and_deleted(web: str, film: Path) -> None:
    address = f"{web}/{film.name}"
    assert [task.media for task in find_tasks([address], ["Who?"])] == [address]
    assert remote_mark(address) == remote_mark(address)
    with fetched(address) as copy:
        assert copy.read_bytes() == film.read_bytes() and copy.suffix == film.suffix
        assert read_clip(copy).duration == read_clip(film).duration
    assert not copy.exists() and not copy.parent.exists()


def test_what_is_fetched_is_bounded(web: str, film: Path) -> None:
    with pytest.raises(MediaError, match="larger than"), fetched(f"{web}/{film.name}", most=1000):
        pass


def test_an_address_without_anything_is_an_error_of_its_clip(web: str) -> None:
    with pytest.raises(MediaError, match="cannot be fetched: no such file"):
        remote_mark(f"{web}/gone.mp4")
    with pytest.raises(MediaError, match="cannot be fetched"), fetched("http://127.0.0.1:9/clip.mp4"):
        pass


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match="s3:// needs a package") as error:
        remote_mark("s3://bucket/clip.mp4")
    assert "echoingpixels[remote]" in error.value.hint
    with pytest.raises(DataError, match="cannot be read"):
        remote_mark("nothing://bucket/clip.mp4")
    assert not remote.is_remote("C:/clip.mp4") and not remote.is_remote("clips/a.mp4")


def test_a_table_has_a_column_for_each_value(tmp_path: Path) -> None:
    import csv

    from pyarrow.parquet import read_table

    from echoingpixels.batch.journal import Journal
    from tests.batch.test_journal import result

    journal = tmp_path / "out.jsonl"
    with Journal(journal) as file:
        file.write(
            [replace(result("a"), evidence=[{"start": 1.0, "end": 2.5, "share": 0.7}]), result("b", failed=True)]
        )
        file.write([replace(result("c"), keep="auto:0.98")])  # type: ignore[arg-type]  # of version 0.2.0
    for name in ("out.csv", "out.parquet"):
        write_table(journal, tmp_path / name)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        as_csv = list(csv.DictReader(file))
    as_parquet = read_table(tmp_path / "out.parquet").to_pylist()
    assert list(as_csv[0]) == list(as_parquet[0])
    assert [row["id"] for row in as_csv] == [row["id"] for row in as_parquet] == ["a", "b", "c"]
    assert as_csv[0]["answer"] == as_parquet[0]["answer"] == "ä\n"
    assert as_csv[1]["error_kind"] == as_parquet[1]["error_kind"] == "MediaError"
    assert [as_parquet[0][f"evidence_{name}"] for name in ("start", "end", "share")] == [1.0, 2.5, 0.7]
    assert as_parquet[1]["evidence_start"] is None
    assert as_parquet[0]["error_kind"] is None and [row["keep"] for row in as_parquet] == [0.2, 0.2, None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.jsonl", "out.parquet"]
