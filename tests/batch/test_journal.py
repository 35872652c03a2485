"""The file that rows are written to: whole lines, one writer, and what is done is found again."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.batch.journal import Journal, read_journal
from echoingpixels.batch.result import Failure, Result
from echoingpixels.errors import DataError
from echoingpixels.storage import rowfile


def result(name: str, failed: bool = False) -> Result:
    error = Failure("MediaError", "It is broken.", "Mend it.") if failed else None
    return Result(
        key=f"key-{name}", id=name, media=name, start=None, end=None, question="Who?", answer=None if failed else "ä\n",
        finish_reason=None, model="tiny", reducer="cs2", keep=0.2, kept_ratio=0.2, tokens=None, time_s={}, error=error,
    )  # fmt: skip


def written(path: Path, *results: Result) -> bytes:
    with Journal(path) as journal:
        journal.write(results)
    return path.read_bytes()


def names(path: Path) -> list[str]:
    return [row["id"] for row in read_journal(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_a_journal_cut_anywhere_can_be_resumed(path: Path) -> None:
    whole = written(path, result("a"), result("b"))
    first = whole.index(b"\n") + 1
    sizes = {0, 1, first // 2, first - 2, first - 1, first, first + 1, len(whole) - 2, len(whole) - 1, len(whole)}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        lines = (size >= first) + (size == len(whole))
        with Journal(path, {"a", "b"}, resume=True) as journal:
            assert len(journal.done) == lines
            assert journal.done.take("key-a", "a") == (lines > 0)
            journal.write([result("c")])
        assert names(path) == [*["a", "b"][:lines], "c"]


def test_rows_are_left_out_where_open_files_cannot_be_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowfile, "REPLACES_OPEN", False)
    written(path, result("a"), result("b", failed=True), result("c"))
    with Journal(path, {"a", "b", "c"}, resume=True) as journal:
        assert names(path) == ["a", "c"]
        journal.write([result("b")])
    assert names(path) == ["a", "c", "b"]


def test_failed_rows_go_when_they_are_asked_again_and_only_then(path: Path) -> None:
    written(path, result("a", failed=True), result("b"), result("other", failed=True))
    with Journal(path, {"a", "b"}, resume=True, retry=False) as journal:
        assert journal.done.take("key-a", "a")
    with Journal(path, {"a", "b"}, resume=True) as journal:
        assert not journal.done.take("key-a", "a") and journal.done.take("key-b", "b")
    assert names(path) == ["b", "other"]


def test_a_row_that_was_moved_is_taken_once(path: Path) -> None:
    written(path, result("a"))
    with Journal(path, {"x", "y"}, resume=True) as journal:
        assert [journal.done.take("key-a", name) for name in ("x", "y")] == [True, False]


def test_what_is_there_is_not_overwritten(path: Path) -> None:
    before = written(path, result("a"))
    with pytest.raises(DataError, match="already exists") as error:
        Journal(path)
    assert "--resume" in error.value.hint and path.read_bytes() == before


@pytest.mark.parametrize("line", ["no json", "[1]", '{"id": "a"}', '{"id": 1, "key": "k"}'])
def test_a_file_of_something_else_is_left_alone(line: str, path: Path) -> None:
    path.write_text(f"{line}\n{json.dumps(result('a').as_dict())}\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match="line 1 is not a valid row of a batch"):
        Journal(path, resume=True)
    assert path.read_bytes() == before


def test_a_journal_in_which_nothing_was_written_does_not_stay(path: Path) -> None:
    with Journal(path):
        assert path.exists()
    assert not path.exists()


def test_two_programs_do_not_write_to_one_file(path: Path) -> None:
    with Journal(path) as journal:
        journal.write([result("a")])
        with pytest.raises(DataError, match="by another"):
            Journal(path, resume=True)
    with Journal(path, {"a"}, resume=True):  # after a repair the new file is held, too
        pass
    path.write_bytes(path.read_bytes() + b"{torn")
    with Journal(path, resume=True), pytest.raises(DataError, match="by another"):
        Journal(path, resume=True)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no/out\.jsonl cannot be written: no such file") as error:
        Journal(tmp_path / "no" / "out.jsonl")
    assert error.value.hint == "Choose another --out."


def test_a_folder_that_vanishes_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with Journal(folder / "out.jsonl") as journal:
        journal.write([result("a")])
        folder.rename(tmp_path / "moved")
        with pytest.raises(DataError, match="is gone"):
            journal.write([result("b")])
    assert names(tmp_path / "moved" / "out.jsonl") == ["a", "b"]
    shutil.rmtree(tmp_path / "moved")


@pytest.mark.parametrize("at", [0, 1, 100])
def test_a_full_disk_leaves_whole_lines(path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.write, []

    def write(file: int, data: Any) -> int:
        calls.append(file)
        if at and len(calls) == 1:
            return real(file, bytes(data)[:at])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(path) as journal:
        journal.write([result("a")])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(DataError, match="no space left on device"):
                journal.write([result("b"), result("c")])
        journal.write([result("d")])
    assert names(path) == ["a", "d"]


def test_a_file_that_may_not_grow_is_cut_back_to_whole_lines(path: Path) -> None:
    with Journal(path) as journal:
        journal.write([result("a")])
        size = path.stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, before[1]))  # the system itself writes half a row
        try:
            with pytest.raises(DataError, match="cannot be written: file too large"):
                journal.write([result("b")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.stat().st_size == size


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "out.jsonl"
    link.symlink_to(os.devnull)
    with pytest.raises(DataError, match="not a regular file"):
        Journal(link, resume=True)
