"""Record formats of published audio-visual question sets: one table of their keys.

The keys are those of the published files, including their misspellings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .record import Record

TASK = r"task\d{1,9}"
PLACEHOLDER = re.compile(r"<[^<>\s]+>")  # <FL>, <Object>
SHORT_ANSWER = "Answer with one word or a short phrase; write numbers as words."  # as MUSIC-AVQA's answers are
MEDIA_TAG = re.compile(r"<(?:video|audio|image)>")
MEDIA_KINDS = ("video", "audio", "image")
ONE_CLIP = "Give each row one question about one clip."


def tasks(record: Record) -> Iterator[Record]:
    """WorldSense's record of a video: one record for each of task1, task2, …"""
    video = record.text("video_id")
    for key in sorted((key for key in record.fields if re.fullmatch(TASK, key)), key=lambda key: int(key[4:])):
        task = record.part(key, record.fields[key])
        yield replace(task, fields={**record.fields, **task.fields, "id": f"{video}-{key}"})


def template(record: Record) -> Iterator[Record]:
    """MUSIC-AVQA's record with its placeholders filled; nothing for a deleted question."""
    if record.fields.get("question_deleted") in (1, "1", True):
        return
    question, values = record.text("question_content"), record.texts("templ_values")
    placeholders = PLACEHOLDER.findall(question)
    if len(placeholders) > len(values):
        raise record.error(f"has {len(placeholders)} placeholders in its question and {len(values)} templ_values")
    rest, types = iter(values), record.texts("type")
    filled = f"{PLACEHOLDER.sub(lambda _: next(rest), question)}\n{SHORT_ANSWER}"
    fields = {"question_content": filled, "kind": " ".join(types), "regime": types[0] if types else ""}
    yield replace(record, fields={**record.fields, **fields})


def conversation(record: Record) -> Iterator[Record]:
    """An ms-swift row with one user message, one assistant message and one clip.

    A system message is ignored: the model has its own. DataError for more turns or clips.
    """
    texts: dict[str, list[str]] = {"user": [], "assistant": []}
    clips = [clip for kind in MEDIA_KINDS for clip in _file_names(record, f"{kind}s")]
    messages = record.fields["messages"] if isinstance(record.fields["messages"], list) else [None]
    for number, message in enumerate(messages, 1):
        part = record.part(f"message {number}", message)
        text, inside = _content(part)
        clips += inside
        if (role := part.text("role")) in texts:
            texts[role].append(text)
        elif role != "system":
            raise part.error(f"has the role {role!r}; known roles: system, user and assistant")
    users, assistants = map(len, texts.values())
    if users != 1 or assistants > 1 or (record.needs_answer and not assistants):
        raise record.error(f"has {users} user and {assistants} assistant messages", ONE_CLIP)
    if len(set(clips)) != 1:
        raise record.error(f"has {len(set(clips))} media files", ONE_CLIP)
    question, answer = MEDIA_TAG.sub("", texts["user"][0]).strip(), "".join(texts["assistant"]).strip()
    for name, text in (("question", question), ("answer", answer)):
        if not text and (name == "question" or record.needs_answer):
            raise record.error(f"has an empty {name}")
    fields = {"media": clips[0], "question": question, "answer": answer or None, "id": record.fields.get("id")}
    yield replace(record, fields=fields)


def _file_names(record: Record, key: str) -> list[str]:
    """A list of file names, or a single one without a list."""
    value = record.fields.get(key) or []
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise record.error(f"has {key} {value!r}, not file names")
    return names


def _content(message: Record) -> tuple[str, list[str]]:
    """The text of a message and the media files in it; the content is text, or a list of typed parts."""
    content: Any = message.fields.get("content")
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise message.error(f"has content {content!r}, not text")
    parts = [message.part(f"part {number}", part) for number, part in enumerate(content, 1)]
    texts = [part.text("text") for part in parts if part.fields.get("type") == "text"]
    clips = [part.text(kind) for part in parts for kind in MEDIA_KINDS if part.fields.get("type") == kind]
    if len(texts) + len(clips) != len(parts):
        raise message.error("has a part that is not text, video, audio or image")
    return " ".join(texts), clips


def unchanged(record: Record) -> Iterator[Record]:
    """A record that has the format's keys."""
    yield record


@dataclass(frozen=True)
class Format:
    """The keys that hold the parts of a question in the records of a set; an empty key: the set lacks that part.

    `duration`: the class of the clip's duration is the regime of a record without one. `id`: by default the number of
    the record. `signature`: patterns of keys that a record must have; by default media, question, answer and options.
    `expand`: converts a record with another layout into records with these keys. `files`: names the clip may have,
    likeliest first, with the value of `media` for {0}. `index_answer`: the answer is the index of an option, from 0.
    """

    name: str
    media: str
    question: str
    answer: str
    options: str = ""
    kind: str = ""
    regime: str = ""
    duration: str = ""
    id: str = ""
    signature: tuple[str, ...] = ()
    expand: Callable[[Record], Iterable[Record]] = unchanged
    files: tuple[str, ...] = ("{0}",)
    index_answer: bool = False

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Whether a record with these keys has this format."""
        patterns = self.signature or (self.media, self.question, self.answer, self.options)
        return all(any(re.fullmatch(pattern, key) for key in fields) for pattern in patterns)


# fmt: off
TABLE = (
    Format("daily-omni", media="video_id", question="Question", answer="Answer", options="Choice",
           kind="Type", duration="video_duration", files=("{0}/{0}_video", "{0}_video", "{0}")),
    Format("worldsense-raw", media="video_id", question="question", answer="answer", options="candidates",
           kind="task_type", regime="audio_class", duration="duration", id="id", signature=(TASK,), expand=tasks),
    Format("worldsense", media="video_path", question="question", answer="answer", options="candidates",
           kind="task_type", regime="audio_class", duration="duration", id="index"),
    Format("video-mme", media="videoID", question="question", answer="answer", options="options",
           kind="task_type", duration="duration", id="question_id"),
    Format("omnivideobench", media="video", question="question", answer="correct_option", options="options",
           kind="question_type", regime="audio_type", duration="duration"),
    Format("avqa", media="video_name", question="question_text", answer="answer", options="multi_choice",
           kind="question_type", regime="question_relation", id="id", index_answer=True),
    Format("music-avqa", media="video_id", question="question_content", answer="anser",
           kind="kind", regime="regime", id="question_id",
           signature=("video_id", "question_content", "templ_values", "anser"), expand=template),
    Format("lvomnibench", media="video_id", question="question", answer="answer", options="options",
           kind="question_type", regime="audio_type", duration="duration", id="question_id"),
    Format("ms-swift", media="media", question="question", answer="answer", id="id",
           signature=("messages",), expand=conversation),
)
# fmt: on
FORMATS = {one.name: one for one in TABLE}
