"""A question to the replicas."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from ...generation.answer import Answer
from ...inputs.prompt import Message
from ...options import AskOptions, MediaOptions
from ..chatting import Question
from ..media import Reference
from ..metrics import Metrics
from ..refusals import Refused
from .replica import Answered, Asked, Event


class Events(Protocol):
    """The events of a question that a replica answers."""

    async def next(self) -> Event:
        """The next event. Refused where the replica is lost."""

    def cancel(self) -> None:
        """End the question, answered or not."""


Send = Callable[[Asked, str | None], Events]
"""Send a question to a replica: the same one for equal keys, any for None."""


class RemoteQuestion(Question):
    """A question that a replica answers. `left` is called when it is closed."""

    def __init__(self, metrics: Metrics, send: Send, left: Callable[[RemoteQuestion], object]) -> None:
        super().__init__(metrics)
        self._send, self._left = send, left
        self._events: Events | None = None

    async def ask(self, asked: list[Message[Reference]], read: MediaOptions, options: AskOptions, owner: str) -> None:
        """Send the question. Its replica reads the clips."""
        owner = hashlib.sha256(owner.encode()).hexdigest()  # it holds an API key
        self._events = self._send(Asked(asked, read, options, owner), key_of(asked, owner))

    async def _next(self) -> str | Answer:
        assert self._events is not None
        one = await self._events.next()
        if isinstance(one, Refused):
            raise one
        if isinstance(one, Answered):
            self.cached = one.cached
            return one.answer
        return one

    def _leave(self) -> None:
        if self._events is not None:
            self._events.cancel()
        self._left(self)


def key_of(messages: Sequence[Message[Reference]], owner: str) -> str | None:
    """The key of a conversation's first clip, by which its replica is chosen; None without a clip."""
    for one in messages:
        for part in one.parts:
            if isinstance(part, Reference):
                name = part.url if part.uuid is None else f"{owner} {part.uuid}"
                return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return None
