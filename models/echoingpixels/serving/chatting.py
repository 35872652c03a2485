"""One question under way: its clips, its place in the queue, and its events, for a handler of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..display.view import ClipView
from ..encoded_clip import EncodedClip
from ..errors import EpError
from ..generation.answer import Answer
from ..inputs.prompt import Message
from ..options import AskOptions, MediaOptions
from .clips import Abandoned, ServedClip, ServedClips
from .engine import Event, InferenceEngine
from .kept import KeptTokens
from .media import Reference
from .metrics import Metrics
from .refusals import CLOSING, Refused, of_error
from .replies import Head, event

T = TypeVar("T")
UNBUFFERED = {"X-Accel-Buffering": "no"}  # a proxy passes each event on at once


class Gone(Exception):  # noqa: N818
    """The client has disconnected."""


@dataclass(frozen=True)
class AskRequest:
    """A checked question. `owner`: whose names the uuids of clips are. `kept`: whether kept tokens are wanted."""

    messages: list[Message[Reference]]
    read: MediaOptions
    options: AskOptions
    owner: str
    kept: bool = False


@dataclass(frozen=True)
class ViewRequest:
    """A clip that is wanted for display."""

    clip: Reference
    read: MediaOptions
    owner: str


class ServedQuestion(ABC):
    """A question that holds a place in the queue until it is closed.

    `waits`: whether it has no event yet. `cached`, once answered: whether no clip was encoded for it.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._began = metrics, time.monotonic()
        self.waits = self.cached = True
        self.outcome = "cancelled"

    @abstractmethod
    async def ask(self, asked: AskRequest) -> None:
        """Read the clips and queue the question. Refused where a clip cannot be read."""

    async def view(self, asked: ViewRequest) -> ClipView:
        """The picture of a clip, which is encoded first. Refused where it cannot be read."""
        view = await self._view(asked)
        self.outcome = "viewed"
        return view

    @property
    @abstractmethod
    def kept(self) -> tuple[KeptTokens, ...] | None:
        """The kept tokens of each clip, once answered, if they are wanted."""

    async def event(self) -> str | Answer:
        """The next event. Refused for an error."""
        one = await self._next()
        if self.waits:
            self._metrics.first.observe(time.monotonic() - self._began)
            self.waits = False
        if isinstance(one, Answer):
            self.outcome = "answered"
        return one

    def refuse(self, error: Refused) -> None:
        """Record that the question ended with a refusal."""
        self.outcome = "refused" if error.status < 500 else "failed"

    async def answer(self) -> Answer:
        """The whole answer."""
        while not isinstance(one := await self.event(), Answer):
            pass
        return one

    def close(self) -> None:
        """Give the place back."""
        self._leave()
        self._metrics.requests.labels(self.outcome).inc()

    @abstractmethod
    async def _view(self, asked: ViewRequest) -> ClipView: ...

    @abstractmethod
    async def _next(self) -> str | Answer: ...

    @abstractmethod
    def _leave(self) -> None: ...


class PendingQuestion(ServedQuestion):
    """A question to the engine of this process."""

    def __init__(self, engine: InferenceEngine, clips: ServedClips) -> None:
        super().__init__(engine.metrics)
        self._clips = clips
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._ticket = engine.admit(self._deliver)

    async def ask(self, asked: AskRequest) -> None:
        """See `ServedQuestion.ask`."""
        self._ticket.wants_kept = asked.kept
        names = dict.fromkeys(part for one in asked.messages for part in one.parts if isinstance(part, Reference))
        found: dict[Reference, EncodedClip] = {}
        for name in names:
            shown = await self._encoded(name, asked.read, asked.owner)
            found[name] = shown.clip
            self.cached &= shown.cached
        self.cached &= bool(names)
        messages = [
            Message(one.role, tuple(part if isinstance(part, str) else found[part] for part in one.parts))
            for one in asked.messages
        ]
        self._ticket.ask(messages, replace(asked.options, reuse_prefix=bool(names)))

    async def _view(self, asked: ViewRequest) -> ClipView:
        shown = await self._encoded(asked.clip, asked.read, asked.owner)
        with _refusing():
            return await asyncio.wrap_future(self._clips.view(asked.clip, shown.clip, asked.read, self._waits))

    @property
    def kept(self) -> tuple[KeptTokens, ...] | None:
        """See `ServedQuestion.kept`."""
        return self._ticket.kept

    async def _next(self) -> str | Answer:
        one = await self._events.get()
        if isinstance(one, EpError):
            raise Refused(503, CLOSING) if one.message == CLOSING else of_error(one)
        return one

    def _leave(self) -> None:
        self._ticket.close()

    async def _encoded(self, name: Reference, read: MediaOptions, owner: str) -> ServedClip:
        """The clip, from memory or read and encoded. Refused where it cannot be read."""
        with _refusing():
            shown = await asyncio.wrap_future(self._clips.held(name, read, owner))
            if shown is None:
                return await asyncio.wrap_future(self._clips.get(name, read, owner, self._waits))
            return shown

    def _waits(self) -> bool:
        return not self._ticket.cancelled

    def _deliver(self, one: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads
            self._loop.call_soon_threadsafe(self._events.put_nowait, one)


class Stream(StreamingResponse):
    """The events of a question as server-sent events. It closes the question, also where nothing was sent."""

    def __init__(self, question: ServedQuestion, first: str | Answer, head: Head) -> None:
        super().__init__(_events(question, first, head), media_type="text/event-stream", headers=UNBUFFERED)
        self._question = question

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the answer, or until the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._question.close()


async def _events(question: ServedQuestion, one: str | Answer, head: Head) -> AsyncIterator[bytes]:
    yield head.first()
    try:
        while not isinstance(one, Answer):
            yield head.text(one)
            one = await question.event()
    except Refused as error:
        question.refuse(error)
        yield event(error.body())
        return
    yield head.last(one, question.cached, question.kept)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Errors of reading as refusals."""
    try:
        yield
    except EpError as error:
        raise of_error(error) from None
    except Abandoned:
        raise Gone from None


def head_of(model: str, with_usage: bool) -> Head:
    """The identity of a new answer."""
    return Head(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model, with_usage)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled, with Gone raised, where the client disconnects."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
