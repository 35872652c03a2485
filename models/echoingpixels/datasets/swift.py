"""Rows as ms-swift trains on them: messages, and the media their placeholders stand for.

A row is one question about one clip: one user message, one assistant message, and one of videos, audios or images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .record import Item, Record

PLACEHOLDER = re.compile(r"<(?:video|audio|image)>")
MEDIA = ("video", "audio", "image")
ONE = "Give each row one question about one clip."


def read_swift(record: Record) -> Iterator[Item]:
    """What one row asks. A system message is left out: ep has its own. DataError for more than one turn or clip."""
    said: dict[str, list[str]] = {"user": [], "assistant": []}
    clips = [clip for kind in MEDIA for clip in _listed(record, f"{kind}s")]
    messages = record.said["messages"] if isinstance(record.said["messages"], list) else [None]
    for number, message in enumerate(messages, 1):
        part = record.part(f"message {number}", message)
        text, inside = _content(part)
        clips += inside
        if (role := part.text("role")) in said:
            said[role].append(text)
        elif role != "system":
            raise part.error(f"has the role {role!r}; ep knows system, user and assistant")
    turns = [len(texts) for texts in said.values()]
    if turns != [1, 1] and (record.answered or turns != [1, 0]):
        raise record.error(f"has {turns[0]} user and {turns[1]} assistant messages", ONE)
    if len(set(clips)) != 1:
        raise record.error(f"has {len(set(clips))} media files", ONE)
    question = PLACEHOLDER.sub("", said["user"][0]).strip()
    answer = "".join(said["assistant"]).strip()
    for name, text in (("question", question), ("answer", answer)):
        if not text and (name == "question" or record.answered):
            raise record.error(f"has an empty {name}")
    yield Item(clip=(clips[0],), question=question, answer=answer, id=record.word("id"))


def _listed(record: Record, key: str) -> list[str]:
    """File names under a key; one alone may stand without its list."""
    value = record.said.get(key) or []
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise record.error(f"has {key} {value!r}, not file names")
    return names


def _content(message: Record) -> tuple[str, list[str]]:
    """A message's text and the media named inside it: plain text, or a list of typed parts."""
    content: Any = message.said.get("content")
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise message.error(f"has content {content!r}, not text")
    parts = [message.part(f"part {number}", part) for number, part in enumerate(content, 1)]
    texts = [part.text("text") for part in parts if part.said.get("type") == "text"]
    clips = [part.text(kind) for part in parts for kind in MEDIA if part.said.get("type") == kind]
    if len(texts) + len(clips) != len(parts):
        raise message.error("has a part that is no text, video, audio or image")
    return " ".join(texts), clips
