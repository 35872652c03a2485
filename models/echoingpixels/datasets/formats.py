"""The records of published audio-visual question sets, with their keys as they are, oddities included.

Knows nothing about files: a record goes in, what it asks comes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .duration import duration_class
from .record import Item, Record
from .swift import read_swift

TASK = re.compile(r"task\d+")
BLANK = re.compile(r"<[^<>\s]+>")  # <FL>, <Object>
OPEN = "Answer with one word or a short phrase; write numbers as words."  # as MUSIC-AVQA's answers are


@dataclass(frozen=True)
class Format:
    """A set's name, how its records are told from others by their keys, and how one is read."""

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Record], Iterable[Item]]


def _daily_omni(record: Record) -> Iterator[Item]:
    video = record.text("video_id")
    yield Item(
        clip=(f"{video}/{video}_video", f"{video}_video", video),
        question=record.text("Question"),
        answer=record.text("Answer"),
        options=record.texts("Choice"),
        kind=record.word("Type"),
        regime=duration_class(record.said.get("video_duration")),
    )


def _worldsense_raw(record: Record) -> Iterator[Item]:
    video = record.text("video_id")
    for key in sorted(filter(TASK.fullmatch, record.said), key=lambda name: int(name[4:])):
        task = record.part(key, record.said[key])
        yield Item(
            clip=(video,),
            question=task.text("question"),
            answer=task.text("answer"),
            options=task.texts("candidates"),
            kind=task.word("task_type"),
            regime=record.word("audio_class") or duration_class(record.said.get("duration")),
            id=f"{video}-{key}",
        )


def _worldsense(record: Record) -> Iterator[Item]:
    yield Item(
        clip=(record.text("video_path"),),
        question=record.text("question"),
        answer=record.text("answer"),
        options=record.texts("candidates"),
        kind=record.word("task_type"),
        regime=record.word("audio_class") or duration_class(record.said.get("duration")),
        id=record.word("index"),
    )


def _omnivideobench(record: Record) -> Iterator[Item]:
    yield Item(
        clip=(record.text("video"),),
        question=record.text("question"),
        answer=record.text("correct_option"),
        options=record.texts("options"),
        kind=record.word("question_type"),
        regime=record.word("audio_type") or duration_class(record.said.get("duration")),
    )


def _videomme(record: Record) -> Iterator[Item]:
    yield Item(
        clip=(record.text("videoID"),),
        question=record.text("question"),
        answer=record.text("answer"),
        options=record.texts("options"),
        kind=record.word("task_type"),
        regime=duration_class(record.said.get("duration")),
        id=record.word("question_id"),
    )


def _lvomnibench(record: Record) -> Iterator[Item]:
    yield Item(
        clip=(record.text("video_id"),),
        question=record.text("question"),
        answer=record.text("answer"),
        options=record.texts("options"),
        kind=record.word("question_type"),
        regime=record.word("audio_type") or duration_class(record.said.get("duration")),
        id=record.word("question_id"),
    )


def _avqa(record: Record) -> Iterator[Item]:
    answer = record.said.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise record.error(f"has answer {answer!r}, not the index of a choice")
    yield Item(
        clip=(record.text("video_name"),),
        question=record.text("question_text"),
        answer=answer,
        options=record.texts("multi_choice"),
        kind=record.word("question_type"),
        regime=record.word("question_relation"),
        id=record.word("id"),
    )


def _music_avqa(record: Record) -> Iterator[Item]:
    if record.said.get("question_deleted") in (1, "1", True):
        return
    question, values = record.text("question_content"), record.texts("templ_values")
    blanks = BLANK.findall(question)
    if len(blanks) > len(values):
        raise record.error(f"has {len(blanks)} placeholders in its question and {len(values)} templ_values")
    filled = iter(values)
    about = record.texts("type")
    yield Item(
        clip=(record.text("video_id"),),
        question=f"{BLANK.sub(lambda _: next(filled), question)}\n{OPEN}",
        answer=record.text("anser"),
        kind=" ".join(about),
        regime=about[0] if about else "",
        id=record.word("question_id"),
    )


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda said: all(key in said for key in keys)


FORMATS = {
    one.name: one
    for one in (
        Format("daily-omni", _has("Question", "Choice", "Answer", "video_id"), _daily_omni),
        Format("worldsense-raw", lambda said: any(map(TASK.fullmatch, said)), _worldsense_raw),
        Format("worldsense", _has("video_path", "question", "candidates", "answer"), _worldsense),
        Format("video-mme", _has("videoID", "question", "options", "answer"), _videomme),
        Format("omnivideobench", _has("video", "question", "options", "correct_option"), _omnivideobench),
        Format("avqa", _has("video_name", "question_text", "multi_choice", "answer"), _avqa),
        Format("music-avqa", _has("video_id", "question_content", "templ_values", "anser"), _music_avqa),
        Format("lvomnibench", _has("video_id", "question", "options", "answer"), _lvomnibench),
        Format("ms-swift", _has("messages"), read_swift),
    )
}
