"""Question files of published sets and of ms-swift: their keys, and the clips they name."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoingpixels.datasets.choices import LETTERS, REQUEST
from echoingpixels.datasets.duration import duration_class, seconds_of
from echoingpixels.datasets.files import Files
from echoingpixels.datasets.formats import FORMATS, SHORT_ANSWER
from echoingpixels.datasets.questions import Row
from echoingpixels.datasets.reading import read_questions
from echoingpixels.errors import DataError, OptionError

properties = settings(deadline=None, max_examples=100)
ASKED = {"question": "Who rings?", "options": ["A. A man", "B. A dog", "C. Nobody"]}
RECORDS: dict[str, Any] = {  # one of each, with keys that are not read
    "daily-omni": {
        "Question": "Who rings?",
        "Choice": ASKED["options"],
        "Answer": "B",
        "video_id": "v1",
        "Type": "AV Event Alignment",
        "content_parent_category": "x",
        "content_fine_category": "x",
        "video_category": "x",
        "video_duration": "30s",
    },
    "worldsense": {
        "index": 3,
        "video_path": "./videos/v1.mp4",
        "subtitle_path": "x.srt",
        "question": "Who rings?",
        "candidates": ASKED["options"],
        "answer": "B",
        "task_type": "Audio Recognition",
        "task_domain": "x",
        "duration": 61.5,
        "audio_class": ["Speech", "Event"],
    },
    "video-mme": {
        "videoID": "v1",
        "question_id": "001-1",
        **ASKED,
        "answer": "B",
        "duration": "short",
        "domain": "x",
        "sub_category": "x",
        "task_type": "Counting Problem",
    },
    "omnivideobench": {
        "video": "v1.mp4",
        "question": "Who rings?",
        "options": ASKED["options"],
        "correct_option": "A dog",
        "question_type": "causal",
        "audio_type": "Speech",
        "duration": "03:28",
        "video_type": "x",
    },
    "avqa": {
        "id": 9,
        "video_name": "v1",
        "video_id": 4,
        "question_text": "Who rings?",
        "multi_choice": ["A man", "A dog", "Nobody", "All"],
        "answer": 1,
        "question_relation": "Both",
        "question_type": "Come From",
    },
    "lvomnibench": {
        "video_id": "v1",
        **ASKED,
        "answer": "B",
        "question_id": "q7",
        "question_type": "causal",
        "audio_type": "music",
        "difficulty": "hard",
        "duration": "35:10",
        "video_category": "x",
        "sub_category": "x",
    },
}
EXPECTED = {  # id, kind, regime
    "daily-omni": ("1", "AV Event Alignment", "up to 1 min"),
    "worldsense": ("3", "Audio Recognition", "Speech, Event"),
    "video-mme": ("001-1", "Counting Problem", "short"),
    "omnivideobench": ("1", "causal", "Speech"),
    "avqa": ("9", "Come From", "Both"),
    "lvomnibench": ("q7", "causal", "music"),
}
WORLDSENSE = {
    "v1": {
        "video_id": "v1",
        "video_caption": "x",
        "domain": "x",
        "task10": {"task_type": "b", "task_domain": "x", "question": "Ten?", "answer": "A", "candidates": ["1", "2"]},
        "task1": {
            "task_type": "a",
            "task_domain": "x",
            "question": "One?",
            "answer": "C",
            "candidates": ["1", "2", "3"],
        },
    }
}
MUSIC = {
    "video_id": "v1",
    "question_id": 12,
    "type": '["Audio-Visual", "Counting"]',
    "question_content": "Is the <FL> <Object> louder?",
    "templ_values": '["left", "flute"]',
    "question_deleted": 0,
    "anser": "yes",
}
SWIFT = {
    "messages": [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": "<video>Who rings?"},
        {"role": "assistant", "content": "the man"},
    ],
    "videos": ["v1.mp4"],
}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with one clip; only its name matters."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "v1.mp4").touch()
    return folder


def write(folder: Path, content: object, name: str = "set.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_all_choice_sets_give_the_same_question(tmp_path: Path, media: Path) -> None:
    for name, record in RECORDS.items():
        (row,) = read_questions(write(tmp_path, [record]), media=media)
        assert (row.id, row.kind, row.regime) == EXPECTED[name], name
        assert (row.media.resolve(), row.answer) == (media / "v1.mp4", "B"), name
        assert row.choices[:3] == ("A man", "A dog", "Nobody"), name
        shown = row.question.split("\n")
        assert (shown[0], shown[2], shown[-1]) == ("Who rings?", "B. A dog", REQUEST), name


@pytest.mark.parametrize("name", [*RECORDS])
def test_a_format_is_recognised_by_its_keys(name: str) -> None:
    fitting = [other for other, one in FORMATS.items() if one.fits(RECORDS[name])]
    assert fitting[0] == name


def test_a_set_may_come_as_lines_and_be_cut_short(tmp_path: Path, media: Path) -> None:
    lines = "\n".join(json.dumps(RECORDS["avqa"] | {"id": i}) for i in range(5))
    rows = read_questions(write(tmp_path, lines, "set.jsonl"), 3, media=media)
    assert [row.id for row in rows] == ["0", "1", "2"]
    one = json.dumps(RECORDS["avqa"])
    assert len(read_questions(write(tmp_path, one, "one.jsonl"), media=media)) == 1


def test_worldsense_by_video_has_a_row_a_task_with_its_own_number_of_options(tmp_path: Path, media: Path) -> None:
    rows = read_questions(write(tmp_path, WORLDSENSE), media=media)
    assert [(row.id, row.kind, row.answer, len(row.choices)) for row in rows] == [
        ("v1-task1", "a", "C", 3),
        ("v1-task10", "b", "A", 2),
    ]


def test_music_avqa_is_open_ended_and_its_placeholders_are_filled(tmp_path: Path, media: Path) -> None:
    deleted = MUSIC | {"question_deleted": 1}
    (row,) = read_questions(write(tmp_path, [deleted, MUSIC]), media=media)
    question = f"Is the left flute louder?\n{SHORT_ANSWER}"
    assert row == Row("12", media / "v1.mp4", question, "yes", "Audio-Visual Counting", "Audio-Visual")


def test_the_folders_of_daily_omni_are_known(tmp_path: Path) -> None:
    (tmp_path / "Videos/v1").mkdir(parents=True)
    clip = tmp_path / "Videos/v1/v1_video.mp4"
    clip.touch()
    path = write(tmp_path, [RECORDS["daily-omni"]])
    assert [read_questions(path, media=folder)[0].media for folder in (tmp_path / "Videos", tmp_path)] == [clip, clip]
    assert read_questions(path)[0].media == clip


def test_clips_are_found_by_path_then_by_name_video_before_sound(tmp_path: Path) -> None:
    for name in ("a/x.mp4", "b/x.mp4", "b/y.MKV", "b/z.wav", "a/z.webm", "v1.5.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = Files(tmp_path)
    asked = ("b/x", "x.mp4", "y", "deep/down/y.mp4", "z", "v1.5")
    found = [files.find((name,)).relative_to(tmp_path).as_posix() for name in asked]
    assert found == ["b/x.mp4", "a/x.mp4", "b/y.MKV", "b/y.MKV", "a/z.webm", "v1.5.mp4"]
    assert files.find(("notes", "gone")) == tmp_path / "notes"


def test_a_missing_clip_is_no_error_but_a_folder_without_any_is(tmp_path: Path, media: Path) -> None:
    other = RECORDS["avqa"] | {"video_name": "gone"}
    path = write(tmp_path, [other, RECORDS["avqa"]])
    assert [row.media.name for row in read_questions(path, media=media)] == ["gone", "v1.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"None of the clips is in .*empty, such as gone"):
        read_questions(path, media=tmp_path / "empty")
    with pytest.raises(DataError, match="is not a folder"):
        read_questions(path, media=tmp_path / "nowhere")


def test_ms_swift_rows_are_questions_about_one_clip(tmp_path: Path, media: Path) -> None:
    typed = {
        "messages": [
            {"role": "user", "content": [{"type": "video", "video": "v1.mp4"}, {"type": "text", "text": "Who rings?"}]},
            {"role": "assistant", "content": "the man"},
        ]
    }
    audio = {**SWIFT, "videos": [], "audios": "v1.mp4"}
    path = write(tmp_path, "\n".join(map(json.dumps, (SWIFT, typed, audio))), "swift.jsonl")
    rows = read_questions(path, media=media)
    assert rows == [Row(str(i), media / "v1.mp4", "Who rings?", "the man") for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (SWIFT | {"videos": []}, "has 0 media files"),
        (SWIFT | {"videos": ["a.mp4", "b.mp4"]}, "has 2 media files"),
        (SWIFT | {"videos": [["1.png", "2.png"]]}, "not file names"),
        (SWIFT | {"messages": SWIFT["messages"][:2]}, "1 user and 0 assistant"),
        (SWIFT | {"messages": SWIFT["messages"] * 2}, "2 user and 2 assistant"),
        (SWIFT | {"messages": "x"}, "message 1 None, not an object"),
        (SWIFT | {"messages": [{"role": "tool", "content": "x"}]}, "the role 'tool'"),
        (SWIFT | {"messages": [{"role": "user", "content": "<video>"}, SWIFT["messages"][2]]}, "an empty question"),
        (RECORDS["avqa"] | {"answer": "B"}, "answer 'B', not the index"),
        (RECORDS["avqa"] | {"answer": 4}, "not one of its 4 options"),
        (RECORDS["avqa"] | {"question_text": " "}, "question_text ' ', not text"),
        (RECORDS["daily-omni"] | {"Answer": "D"}, "not one of its 3 options"),
        (RECORDS["daily-omni"] | {"Choice": "x"}, "Choice 'x', not a list"),
        (MUSIC | {"templ_values": "[]"}, "2 placeholders in its question and 0 templ_values"),
        ({"colour": "red"}, "does not have the avqa format: it has colour"),
        ([1], "not an object"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(record: Any, problem: str, tmp_path: Path, media: Path) -> None:
    same = [RECORDS["avqa"]] if problem.startswith(("does not", "not an")) else []
    with pytest.raises(DataError) as error:
        read_questions(write(tmp_path, [*same, record]), media=media)
    assert f"set.json, record {1 + len(same)}" in error.value.message
    assert problem in error.value.message


def test_a_format_can_be_forced_and_an_unknown_one_lists_the_known(tmp_path: Path, media: Path) -> None:
    path = write(tmp_path, [RECORDS["avqa"]])
    with pytest.raises(OptionError) as error:
        read_questions(path, format="avqq")
    assert all(name in error.value.hint for name in ("ep", *FORMATS))
    with pytest.raises(DataError, match="does not have the daily-omni format"):
        read_questions(path, format="daily-omni", media=media)
    with pytest.raises(DataError):
        read_questions(path, format="ep", media=media)


def test_lines_of_our_own_format_may_have_choices(tmp_path: Path, media: Path) -> None:
    own = {"media": "v1.mp4", "question": "Who?", "answer": "a dog"}
    path = write(tmp_path, json.dumps(own) + "\n" + json.dumps(own | {"choices": ["a man", "a dog"]}), "own.jsonl")
    plain, lettered = read_questions(path, media=media)
    assert plain == Row("1", media / "v1.mp4", "Who?", "a dog")
    assert (lettered.answer, lettered.choices) == ("B", ("a man", "a dog"))
    assert lettered.question.endswith(f"B. a dog\n{REQUEST}")
    for wrong in ({"choices": ["x", "y"]}, {"choices": "x"}):
        with pytest.raises(DataError, match="choices"):
            read_questions(write(tmp_path, json.dumps(own | wrong)), media=media)


@properties
@given(st.integers(0, 7200))
def test_durations_are_read_in_all_spellings(seconds: int) -> None:
    minutes, rest = divmod(seconds, 60)
    clock = (f"{minutes}:{rest:02}", f"{minutes // 60}:{minutes % 60:02}:{rest:02}", f"{minutes:02}:{rest}.0")
    for value in (
        seconds,
        float(seconds),
        str(seconds),
        f"{seconds}s",
        f" {seconds} sec ",
        f"{seconds} Seconds",
        *clock,
    ):
        assert seconds_of(value) == seconds, value
        assert duration_class(value) == duration_class(seconds), value
    assert seconds_of(f"{seconds} min") == 60 * seconds


def test_durations_have_classes_and_a_word_is_its_own() -> None:
    values = (30, 60, 61, 300, 600, 1800, 1801, "medium", None, True)
    assert [duration_class(value) for value in values] == [
        *2 * ["up to 1 min"], *2 * ["1 to 5 min"], "5 to 10 min", "10 to 30 min", "over 30 min", "medium", "", "",
    ]  # fmt: skip


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 5) | st.floats() | st.text('ABv1.mp4<FL> \n\ud800[]"', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "type", "text"]), inner),
    max_leaves=5,
)


@properties
@given(st.sampled_from([*RECORDS.values(), MUSIC, SWIFT, WORLDSENSE["v1"]]), st.data())
def test_any_value_in_a_record_gives_rows_or_an_error_that_names_the_record(
    record: dict[str, Any], data: st.DataObject
) -> None:
    changed = record | {data.draw(st.sampled_from(sorted(record))): data.draw(VALUES)}
    with TemporaryDirectory() as folder:
        (Path(folder) / "v1.mp4").touch()
        path = write(Path(folder), [record, changed])
        errors: list[DataError] = []
        rows = read_questions(path, on_error=errors.append)
    assert all(f"{path}, record 2" in error.message for error in errors)
    assert rows and all(row.id and row.question.encode() for row in rows)
    assert all(not row.choices or row.answer in LETTERS[: len(row.choices)] for row in rows)
