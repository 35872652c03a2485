"""A question to the replicas."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ...display.view import ClipView
from ...generation.answer import Answer
from ...inputs.prompt import Message
from ..chatting import AskRequest, ServedQuestion, ViewRequest
from ..kept import KeptTokens
from ..media import Reference
from ..metrics import Metrics
from ..refusals import Refused
from .replica import RemoteAnswer, RemoteEvent


class Events(Protocol):
    """The events of a question that a replica answers."""

    async def next(self) -> RemoteEvent:
        """The next event. Refused where the replica is lost."""

    def cancel(self) -> None:
        """End the question, answered or not."""


Send = Callable[[AskRequest | ViewRequest, str | None], Events]
"""Send a question to a replica: the same one for equal keys, any for None."""


class RemoteQuestion(ServedQuestion):
    """A question that a replica answers. `left` is called when it is closed."""

    def __init__(self, metrics: Metrics, send: Send, left: Callable[[RemoteQuestion], object]) -> None:
        super().__init__(metrics)
        self._send, self._left = send, left
        self._events: Events | None = None
        self._kept: tuple[KeptTokens, ...] | None = None

    async def ask(self, asked: AskRequest) -> None:
        """Send the question. Its replica reads the clips."""
        asked = replace(asked, owner=_hidden(asked.owner))
        self._events = self._send(asked, key_of(asked.messages, asked.owner))

    async def _view(self, asked: ViewRequest) -> ClipView:
        asked = replace(asked, owner=_hidden(asked.owner))
        self._events = self._send(asked, _key(asked.clip, asked.owner))
        view = await self._received()
        assert isinstance(view, ClipView)
        return view

    @property
    def kept(self) -> tuple[KeptTokens, ...] | None:
        """See `ServedQuestion.kept`."""
        return self._kept

    async def _next(self) -> str | Answer:
        one = await self._received()
        if isinstance(one, RemoteAnswer):
            self.cached, self._kept = one.cached, one.kept
            return one.answer
        assert isinstance(one, str)
        return one

    async def _received(self) -> str | RemoteAnswer | ClipView:
        assert self._events is not None
        one = await self._events.next()
        if isinstance(one, Refused):
            raise one
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
                return _key(part, owner)
    return None


def _key(clip: Reference, owner: str) -> str:
    return _hidden(clip.url if clip.uuid is None else f"{owner} {clip.uuid}")


def _hidden(name: str) -> str:
    """A digest of a name, which may hold an API key or a whole clip."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
