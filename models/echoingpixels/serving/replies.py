"""Response bodies: completions, their chunks and usage, files and models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from ..encoded_clip import CACHED
from ..generation.answer import Answer
from ..generation.evidence import Moment
from ..report import TOKEN_KINDS, TokenCount
from .files import Upload
from .kept import KeptTokens

FINAL = b"data: [DONE]\n\n"
PURPOSE = "user_data"


class ErrorAbout(BaseModel):
    """An error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every refused request."""

    error: ErrorAbout


class Details(BaseModel):
    """The tokens of the prompt by modality. `cached`: no clip was encoded for this request."""

    video_tokens: TokenCount
    audio_tokens: TokenCount
    image_tokens: TokenCount
    text_tokens: TokenCount
    cached: bool


class Usage(BaseModel):
    """Tokens that the model read and wrote; those of the prompt after selection."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Details


class Facts(BaseModel):
    """Facts about an answer: the moments that it rests on, or the reason for none; its seconds; its speedup.

    `kept`: the kept tokens of each clip, in the order of the messages; null unless the request asks for them.
    """

    evidence: list[Moment] | None
    no_evidence: str | None
    time_s: dict[str, float | None]
    speedup: dict[str, float | None]
    reducer: str
    keep: float
    warnings: list[str]
    notes: list[str]
    kept: list[KeptTokens] | None


class AnswerMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class CompletionChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """An answer with its cost."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    ep: Facts


class ModelCard(BaseModel):
    """A model that answers. `reducer`, `keep`: how it chooses tokens unless a request says otherwise."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "echoingpixels"
    reducer: str
    keep: float


class Models(BaseModel):
    """The only model."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class FileObject(BaseModel):
    """An uploaded clip; times in s since 1970."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str = PURPOSE
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, upload: Upload) -> FileObject:
        """An upload for clients; its name is that of its content."""
        made, gone = int(upload.created), int(upload.expires)
        return cls(id=upload.id, bytes=upload.bytes, created_at=made, expires_at=gone, filename=upload.id)


class Deleted(BaseModel):
    """A deleted upload."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ready", "loading", "failed", "closed"]


def usage_of(answer: Answer, cached: bool) -> Usage:
    """The tokens of an answer."""
    tokens, completion = answer.report.tokens, len(answer.token_ids)
    prompt = tokens.after.total
    counts = {f"{kind}_tokens": getattr(tokens, kind) for kind in TOKEN_KINDS}
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=Details(**counts, cached=cached),
    )


def facts_of(answer: Answer, kept: Sequence[KeptTokens] | None) -> Facts:
    """The facts about an answer."""
    speedup, options = answer.report.speedup, answer.options
    return Facts.model_validate(
        {
            **answer.evidence.as_dict(),
            "time_s": answer.report.time_s.as_dict(),
            "speedup": {"estimated": speedup.estimated, "measured": speedup.measured},
            "reducer": options.reducer,
            "keep": options.keep,
            "warnings": list(answer.warnings),
            "notes": [note for note in answer.notes if note != CACHED],
            "kept": kept,
        }
    )


@dataclass(frozen=True)
class Head:
    """What all bodies of one answer share. `with_usage`: a last chunk has the usage, and the others have null."""

    id: str
    created: int
    model: str
    with_usage: bool = False

    def completion(self, answer: Answer, cached: bool, kept: Sequence[KeptTokens] | None) -> Completion:
        """The whole answer."""
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[CompletionChoice(message=AnswerMessage(content=answer.text), finish_reason=answer.finish_reason)],
            usage=usage_of(answer, cached),
            ep=facts_of(answer, kept),
        )

    def first(self) -> bytes:
        """The chunk before the first text."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """A chunk of text."""
        return self._chunk({"content": text})

    def last(self, answer: Answer, cached: bool, kept: Sequence[KeptTokens] | None) -> bytes:
        """The chunks after the last text."""
        end = self._chunk({}, answer.finish_reason, {"ep": facts_of(answer, kept).model_dump()})
        if self.with_usage:
            usage = usage_of(answer, cached).model_dump()
            end += event({**self._about(), "choices": [], "usage": usage})
        return end + FINAL

    def _about(self) -> dict[str, Any]:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, str], reason: str | None = None, more: dict[str, Any] | None = None) -> bytes:
        usage = {"usage": None} if self.with_usage else {}
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return event({**self._about(), "choices": [choice], **usage, **(more or {})})


def event(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=True, separators=(',', ':'))}\n\n".encode()
