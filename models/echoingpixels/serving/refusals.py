"""Refused requests: an HTTP status and an error body of OpenAI's shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import EpError, InternalError, MediaError, OptionError, OutOfMemoryError

CLOSING = "The server is shutting down."
LONGEST = 600  # characters of a message
OPTIONS = ("fps", "max_frames", "start", "end", "keep", "temperature", "stop", "reducer")


class Refused(Exception):  # noqa: N818
    """A request that gets no answer. `param`: the field at fault; `code`: a short name of the reason."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, one_line(message), param, code
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        """OpenAI's kind of error."""
        if self.status >= 500:
            return "server_error"
        return {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        about = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": about}

    def __reduce__(self) -> tuple[Callable[..., Refused], tuple[int, str]]:
        made = partial(Refused, param=self.param, code=self.code, headers=self.headers)
        return made, (self.status, self.message)


def not_ready(closed: bool) -> Refused:
    """The refusal of a server that is loading its model, or is closed."""
    message = CLOSING if closed else "The model is loading."
    return Refused(503, message, code="not_ready", headers={"Retry-After": "5"})


def queue_full(seconds: float) -> Refused:
    """The refusal of a question for which there is no place within some seconds."""
    wait = {"Retry-After": str(min(60, max(1, math.ceil(seconds))))}
    return Refused(429, "The queue is full. Try again later.", code="queue_full", headers=wait)


def one_line(text: str) -> str:
    """Text on one line, valid and of bounded length."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    line = "".join(c if c.isprintable() else "\ufffd" for c in line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def of_error(error: EpError) -> Refused:
    """The refusal of an error: its message and hint in one line."""
    message = str(error)
    if isinstance(error, MediaError):
        return Refused(400, message, code="unreadable_media")
    if isinstance(error, OutOfMemoryError):
        return Refused(500, message, code="out_of_memory")
    if isinstance(error, InternalError):
        return Refused(500, message, code="internal_error")
    return Refused(422, message, param=option_of(message) if isinstance(error, OptionError) else None)


def option_of(message: str) -> str | None:
    """The option that a message of OptionError is about, if it is one of a request."""
    words = message.replace("Unknown reducer", "reducer").replace("A stop text", "stop").split()
    if words[:2] == ["A", "question"]:
        return "messages"
    return words[0] if words and words[0] in OPTIONS else None
