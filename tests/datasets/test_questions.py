"""Question files of our own format: what a line must contain, and the errors of other lines."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoingpixels.datasets.questions import Row, read_rows
from echoingpixels.errors import DataError

GOOD = {"media": "clips/1.mp4", "question": "Who?", "answer": "cat"}


def write(folder: Path, *lines: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_media_is_found_beside_the_file_and_the_rest_is_optional(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path, GOOD))
    assert row == Row("1", tmp_path / "clips/1.mp4", "Who?", "cat")
    elsewhere = str(tmp_path.parent / "2.mp4")
    assert read_rows(write(tmp_path, GOOD | {"media": elsewhere}))[0].media == Path(elsewhere)


def test_every_key_is_read_and_others_are_ignored(tmp_path: Path) -> None:
    full = {"id": 7, "kind": "where", "regime": "watch", "options": ["cat", "dog"], "start": 1, "end": 2.5}
    (row,) = read_rows(write(tmp_path, GOOD | full | {"events": [], "note": "x"}))
    assert (row.id, row.kind, row.regime, row.options) == ("7", "where", "watch", ("cat", "dog"))
    assert row.clip == (tmp_path / "clips/1.mp4", 1.0, 2.5)


def test_blank_lines_count_as_lines_but_not_as_questions(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "", GOOD, "   ", GOOD))
    assert [row.id for row in rows] == ["2", "4"]


def test_the_limit_takes_the_first_questions(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, GOOD, "not read")
    assert len(read_rows(path, limit=2)) == 2


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(read_rows(path)) == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"question": "Who?", "answer": "cat"}, "has no media"),
        ({"media": "a.mp4", "answer": "cat"}, "has no question"),
        ({"media": "a.mp4", "question": "Who?"}, "has no answer"),
        (GOOD | {"answer": 3}, "answer 3, not text"),
        (GOOD | {"question": "caf\udce9?"}, "question 'caf\\udce9?', not text"),
        (GOOD | {"options": "cat"}, "options 'cat'"),
        (GOOD | {"start": "1"}, "start '1'"),
        (GOOD | {"start": 3, "end": 2}, "not before"),
        (json.dumps(GOOD)[:-1] + ', "start": NaN}', "start nan"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(line: object, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, line)
    with pytest.raises(DataError) as error:
        read_rows(path)
    assert f"{path}, line 2" in error.value.message
    assert problem in error.value.message


NOT_TEXT = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(" \n\t") | st.just("\ud800") | st.just(["a"])
)
NOT_TEXTS = st.text("a", min_size=1) | st.integers(1) | st.lists(st.integers() | st.none(), min_size=1)
NO_TIME = st.text() | st.booleans() | st.integers(max_value=-1) | st.sampled_from([float("nan"), float("inf"), [1]])
WRONG = {"media": NOT_TEXT, "question": NOT_TEXT, "answer": NOT_TEXT, "options": NOT_TEXTS, "choices": NOT_TEXTS}


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([*WRONG, "start", "end"]), st.data())
def test_a_value_of_another_type_is_an_error_that_names_line_and_key(key: str, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder), GOOD, GOOD | {key: data.draw(WRONG.get(key, NO_TIME))}, GOOD)
        errors: list[DataError] = []
        assert len(read_rows(path, on_error=errors.append)) == 2
    assert [error.message.startswith(f"{path}, line 2 has {key} ") for error in errors] == [True]


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_span_starts_before_it_ends(start: float, end: float) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder), GOOD, GOOD | {"start": start, "end": end})
        errors: list[DataError] = []
        rows = read_rows(path, on_error=errors.append)
    assert [row.clip[1:] for row in rows[1:]] == [(start, end)] * (start < end)
    assert ["is not before end" in error.message for error in errors] == [True] * (start >= end)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00"])
def test_a_file_without_questions_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        read_rows(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_rows(path)
