"""The inference thread: it owns the model, and answers the questions that wait together as one padded batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import Any, TypeVar, cast

from ..batching import Prompt, batches
from ..encoded_clip import EncodedClip
from ..errors import EpError, InternalError, OptionError, OutOfMemoryError, internal
from ..generation.answer import Answer
from ..inputs.prompt import Message
from ..model import EchoingPixels
from ..options import AskOptions
from .backend import State
from .kept import KeptTokens, note_kept
from .metrics import Metrics
from .refusals import CLOSING, Refused, not_ready, queue_full
from .settings import Bounds

LOG = logging.getLogger(__name__)
T = TypeVar("T")
Event = str | Answer | EpError
"""A piece of text; then the answer, or the error in its place."""
Deliver = Callable[[Event], None]
CALLS = 4  # calls between two batches at most, so that clips that arrive do not hold up the questions
AGING = 0.8  # weight of the past in the mean seconds of a batch


class Ticket:
    """A question, from its admission until its answer or its cancellation.

    `delivered`: whether a piece of text has left the inference thread. `kept`: the kept tokens of each clip, if
    they are wanted, before the first text.
    """

    def __init__(self, engine: InferenceEngine, deliver: Deliver) -> None:
        self._engine, self._deliver = engine, deliver
        self.messages: Sequence[Message[EncodedClip]] = ()
        self.options = AskOptions()
        self.prompt: Prompt | None = None
        self.asked = 0.0
        self.cancelled = self.delivered = False
        self.wants_kept = False
        self.kept: tuple[KeptTokens, ...] | None = None

    @property
    def tokens(self) -> int:
        """Length of the prompt before selection."""
        return 0 if self.prompt is None else self.prompt.tokens

    def ask(self, messages: Sequence[Message[EncodedClip]], options: AskOptions) -> None:
        """Put the question into the queue. Its events are delivered from the inference thread."""
        self.messages, self.options, self.asked = messages, options, time.monotonic()
        self._engine.enqueue(self)

    def close(self) -> None:
        """End the question, answered or not. A queued one is dropped; of a running one nothing more is delivered."""
        self.cancelled = True
        self._engine.forget(self)

    def deliver(self, event: Event) -> None:
        """Pass an event on, unless the question was cancelled."""
        if not self.cancelled:
            self.delivered = True
            self._deliver(event)


class InferenceEngine:
    """Loads a model in a thread of its own, and runs everything that uses it there.

    `settled` is called there after each batch, with whether memory ran out; `ready` once the model is loaded, `failed`
    where it could not be.
    """

    def __init__(
        self,
        load: Callable[[], EchoingPixels],
        bounds: Bounds,
        metrics: Metrics,
        settled: Callable[[bool], object] = bool,
        failed: Callable[[], object] = bool,
        ready: Callable[[], object] = bool,
    ) -> None:
        self.bounds, self.metrics = bounds, metrics
        self.settled, self.failed, self.ready = settled, failed, ready
        self.state: State = "loading"
        self.failure: BaseException | None = None
        self._load, self._model = load, cast("EchoingPixels | None", None)
        self._changed = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._queue: list[Ticket] = []
        self._waiting: set[Ticket] = set()
        self._running: set[Ticket] = set()
        self._batch_s = 1.0
        self._thread = threading.Thread(target=self._run, name="ep-inference", daemon=True)
        metrics.waiting.set_function(lambda: len(self._waiting))
        metrics.running.set_function(lambda: len(self._running))

    @property
    def model(self) -> EchoingPixels:
        """The loaded model. Refused while it is loading."""
        if self._model is None or self.state != "ready":
            raise not_ready(self.state == "closed")
        return self._model

    @property
    def open(self) -> int:
        """Number of questions that are admitted and not closed."""
        return len(self._waiting) + len(self._running)

    def start(self) -> None:
        """Start the thread, which loads the model first."""
        self._thread.start()

    def admit(self, deliver: Deliver) -> Ticket:
        """A place in the queue. Refused while the model is loading, or where the queue is full."""
        _ = self.model
        with self._changed:
            if len(self._waiting) >= self.bounds.waiting:
                raise queue_full(self._batch_s * len(self._waiting) / self.bounds.rows)
            ticket = Ticket(self, deliver)
            self._waiting.add(ticket)
            return ticket

    def call(self, function: Callable[[EchoingPixels], T]) -> Future[T]:
        """Run a function of the model in the inference thread, before the next batch."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(self.model))
            except BaseException as error:  # raised where the result is read
                future.set_exception(error)

        with self._changed:
            if self.state == "closed":
                raise Refused(503, CLOSING)
            self._calls.append(run)
            self._changed.notify()
        return future

    def enqueue(self, ticket: Ticket) -> None:
        """Add a question to the queue."""
        with self._changed:
            if self.state == "closed":
                raise Refused(503, CLOSING)
            if not ticket.cancelled:
                self._queue.append(ticket)
                self._changed.notify()

    def forget(self, ticket: Ticket) -> None:
        """Free the place of a question."""
        with self._changed:
            self._waiting.discard(ticket)
            self._running.discard(ticket)
            if ticket in self._queue:
                self._queue.remove(ticket)

    def close(self, seconds: float = 10.0) -> None:
        """Stop the thread. Questions that are still open get an error."""
        with self._changed:
            self.state = "closed"
            for ticket in [*self._waiting, *self._running]:
                ticket.deliver(InternalError(CLOSING))
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            model = self._load()
        except BaseException as error:  # raised where the server runs
            self.state, self.failure = "failed", error
            self.failed()
            return
        with self._changed:
            self._model = model
            self.state = "ready" if self.state == "loading" else self.state
        self.ready()
        while self.state == "ready":
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._queue or self.state != "ready")
                calls = [self._calls.popleft() for _ in range(min(CALLS, len(self._calls)))]
            for call in calls:
                call()
            batch = self._next_batch()
            if batch:
                self._answer(batch)
        for call in self._calls:  # each ends with the refusal of a closed server
            call()

    def _next_batch(self) -> list[Ticket]:
        """The longest waiting question, and those with equal options that fit into its batch.

        Drawn answers are alone: they depend on the seed, and not on the other rows.
        """
        with self._changed:
            queue = list(self._queue)
        for ticket in [one for one in queue if one.prompt is None]:
            self._prepare(ticket)
        ready = [ticket for ticket in queue if ticket.prompt is not None and not ticket.cancelled]
        if not ready:
            return []
        options = ready[0].options
        alike = [ticket for ticket in ready if ticket.options == options]
        part = next(batches(alike[: 1 if options.generate.temperature else self.bounds.rows]))
        with self._changed:
            kept = [ticket for ticket in part if ticket in self._queue]
            for ticket in kept:
                self._queue.remove(ticket)
                self._waiting.discard(ticket)
                self._running.add(ticket)
        return kept

    def _prepare(self, ticket: Ticket) -> None:
        """Make a question's prompt; one that has none is answered with the error."""
        try:
            ticket.prompt = Prompt.of(self.model, ticket.messages)
            if ticket.tokens > self.bounds.prompt:
                message = f"The prompt has {ticket.tokens} tokens; the limit is {self.bounds.prompt}."
                raise OptionError(message, "Ask about a part of the clip, with start and end.")
        except Exception as error:  # one question must not end the server
            ticket.deliver(_described(error))
            self.forget(ticket)

    def _answer(self, batch: list[Ticket]) -> None:
        """Answer one batch. If it fails before its first text, each question is tried alone."""
        began = time.monotonic()
        self.metrics.batch.observe(len(batch))
        self.metrics.seconds.labels("queue").inc(sum(began - ticket.asked for ticket in batch))
        try:
            self._stream(batch)
        except Exception as error:  # one batch must not end the server
            failed = _described(error)
            error.__traceback__ = None  # it holds the tensors of the batch
            self.settled(isinstance(failed, OutOfMemoryError))
            if len(batch) > 1 and not any(ticket.delivered for ticket in batch):
                for ticket in batch:
                    if not ticket.cancelled:
                        self._answer([ticket])
            else:
                for ticket in batch:
                    ticket.deliver(failed)
        else:
            self.settled(False)
        finally:
            for ticket in batch:
                self.forget(ticket)
            self._batch_s = AGING * self._batch_s + (1 - AGING) * (time.monotonic() - began)

    def _stream(self, batch: list[Ticket]) -> None:
        """Deliver the pieces and answers of a batch. Cancelled questions end at the next token."""
        prompts = [cast(Prompt, ticket.prompt) for ticket in batch]
        on_kept = partial(note_kept, batch)
        stream: Any = self.model.stream(prompts, batch[0].options, on_kept=on_kept)  # a generator: rows sent to it end
        with closing(stream) as chunks:
            chunk = next(chunks, None)
            while chunk is not None:
                ticket = batch[chunk.row]
                if chunk.text:
                    ticket.deliver(chunk.text)
                if chunk.answer is not None:
                    self.metrics.answered(chunk.answer)
                    ticket.deliver(chunk.answer)
                left = [row for row, one in enumerate(batch) if one.cancelled]
                if len(left) == len(batch):
                    return
                try:
                    chunk = chunks.send(left)
                except StopIteration:
                    return


def _described(error: Exception) -> EpError:
    """The error for the client; one that is not for users is logged, which --debug shows."""
    if not isinstance(error, EpError):
        LOG.error("A question failed.", exc_info=error)
    return internal(error, "The question")
