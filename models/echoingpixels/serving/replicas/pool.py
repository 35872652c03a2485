"""The replicas as a server's engine: whether they answer, and how many questions they may have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from ...errors import EpError, InternalError
from ..backend import State
from ..chatting import AskRequest, ViewRequest
from ..refusals import not_ready, queue_full
from ..settings import Bounds
from .figures import with_replicas
from .question import Events, RemoteQuestion
from .replica import ReplicaFigures

TICK_S = 0.5  # between two checks of the replicas
BUSY_S = 5.0  # to wait where the queue is full
CLOSE_S = 30.0  # to stop the replicas


class Deployment(Protocol):
    """Replicas, which are started, watched and stopped from one thread."""

    def connect(self) -> None:
        """Connect to what runs them, in the main thread. EpError where that is not possible."""

    def start(self) -> None:
        """Start them. EpError where that is not possible."""

    def running(self) -> int:
        """Number of replicas that answer. EpError where none ever will."""

    def ask(self, asked: AskRequest | ViewRequest, key: str | None) -> Events:
        """Send a question to a replica: the same one for equal keys, any for None."""

    def figures(self) -> Sequence[ReplicaFigures]:
        """The figures of those that answer."""

    def stop(self) -> None:
        """Stop them."""


class ReplicaPool:
    """Starts and watches the replicas in a thread of its own. It answers while one of them does."""

    def __init__(self, deployment: Deployment, bounds: Bounds, replicas: int) -> None:
        self._deployment = deployment
        self._most = bounds.waiting + replicas * bounds.rows
        self.metrics = with_replicas(self._figures)
        self.ready: Callable[[], object] = bool
        self.failed: Callable[[], object] = bool
        self.state: State = "loading"
        self.failure: BaseException | None = None
        self._open: set[RemoteQuestion] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ep-replicas", daemon=True)
        self.metrics.waiting.set_function(lambda: sum(one.waits for one in tuple(self._open)))
        self.metrics.running.set_function(lambda: sum(not one.waits for one in tuple(self._open)))

    @property
    def model(self) -> ReplicaPool:
        """What checks the options of requests. Refused while no replica answers."""
        if self.state != "ready":
            raise not_ready(self.state == "closed")
        return self

    @property
    def open(self) -> int:
        """Number of questions that are admitted and not closed."""
        return len(self._open)

    def check(self, reducer: str, keep: float) -> None:
        """Nothing: the replica checks it against its model."""

    def admit(self) -> RemoteQuestion:
        """A place in the queue. Refused while no replica answers, or where the queue is full."""
        _ = self.model
        if len(self._open) >= self._most:
            raise queue_full(BUSY_S)
        question = RemoteQuestion(self.metrics, self._deployment.ask, self._open.discard)
        self._open.add(question)
        return question

    def start(self) -> None:
        """Connect, and start the thread."""
        self._deployment.connect()
        self._thread.start()

    def close(self) -> None:
        """Stop the replicas."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self.state = "closed"

    def _run(self) -> None:
        try:
            self._deployment.start()
            self._watch()
        except Exception as error:  # raised where the server runs
            text = " ".join(str(error).split()).rstrip(".")
            known = isinstance(error, EpError)
            self.failure = error if known else InternalError(f"Ray Serve failed: {text}.", "See Ray's own logs.")
            self.state = "failed"
            self.failed()
        finally:
            self._deployment.stop()

    def _watch(self) -> None:
        began = False
        while not self._closing.is_set():
            running = self._deployment.running()
            self.state = "ready" if running else "loading"
            if running and not began:
                began = True
                self.ready()
            self._closing.wait(TICK_S)

    def _figures(self) -> Sequence[ReplicaFigures]:
        return self._deployment.figures() if self.state == "ready" else ()
