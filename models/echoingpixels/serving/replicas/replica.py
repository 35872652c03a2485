"""A replica: a model with its queue and its clips, in a process of its own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from prometheus_client import Metric

from ...display.view import ClipView
from ...generation.answer import Answer
from ...model import EchoingPixels
from ..chatting import AskRequest, PendingQuestion, ViewRequest
from ..kept import KeptTokens
from ..messages import check_options
from ..refusals import Refused
from ..server import Server
from ..settings import Settings


@dataclass(frozen=True)
class RemoteAnswer:
    """The last event of a question. `cached`: no clip was encoded for it. `kept`: as of `ServedQuestion`."""

    answer: Answer
    cached: bool
    kept: tuple[KeptTokens, ...] | None


RemoteEvent = str | RemoteAnswer | ClipView | Refused
"""A piece of text; then the answer, or the refusal in its place. Of a view this alone."""


@dataclass(frozen=True)
class ReplicaFigures:
    """The metrics of a replica."""

    replica: str
    families: list[Metric]


class Replica:
    """A server without a port. It is made when its model is loaded; raises the error of a failed load.

    `folder`: that of the paths in the settings, where they are relative.
    """

    def __init__(self, settings: Settings, load: Callable[[], EchoingPixels], folder: str) -> None:
        with suppress(OSError):  # on other machines paths must be absolute
            os.chdir(folder)
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self._own = Server(settings, load)
        loaded = threading.Event()
        self._own.engine.ready = self._own.engine.failed = loaded.set
        self._own.start()
        loaded.wait()
        failure = self._own.engine.failure
        if failure is not None:
            self.close()
            raise failure

    async def ask(self, asked: AskRequest | ViewRequest) -> AsyncIterator[RemoteEvent]:
        """Answer a question. One that nobody reads any more is cancelled at its next token."""
        engine, clips = self._own.engine, self._own.clips
        try:
            if isinstance(asked, AskRequest):
                check_options(engine.model, asked.options)
            question = PendingQuestion(engine, clips)
        except Refused as refused:
            yield refused
            return
        try:
            if isinstance(asked, ViewRequest):
                yield await question.view(asked)
                return
            await question.ask(asked)
            while not isinstance(one := await question.event(), Answer):
                yield one
            yield RemoteAnswer(one, question.cached, question.kept)
        except Refused as refused:
            yield refused
        finally:
            question.close()

    def figures(self) -> ReplicaFigures:
        """The metrics of this replica."""
        return ReplicaFigures(self.name, list(self._own.engine.metrics.registry.collect()))

    def close(self) -> None:
        """End the inference thread and the processes that read media."""
        self._own.close()

    def __del__(self) -> None:  # Ray Serve calls it when it stops a replica
        if hasattr(self, "_own"):
            self.close()


def settings_of_replica(settings: Settings, ongoing: int) -> Settings:
    """The settings of a server for its replicas, which get up to `ongoing` questions at once and no API keys."""
    # A cancelled question leaves the queue after Ray has sent the next one.
    return replace(settings, keys=(), bounds=replace(settings.bounds, waiting=2 * ongoing))
