"""Clips opened ahead of the model: a few at a time, so that neither waits for the other longer than it must.

Knows nothing about models.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from .flow import TICK, Flow
from .job import Job
from .journal import Done
from .opening import Opened, Opener
from .task import Task

READY = 2  # clips of each worker that may wait for the model; each holds its frames, or its first pieces


class Ahead:
    """Opened clips in order of completion; None whenever nothing is ready now. Ends early once `stop` says so.

    A thread for each worker: it sleeps while its process decodes.
    """

    def __init__(self, job: Job, tasks: Sequence[Task], done: Done, workers: int, stop: Callable[[], bool]) -> None:
        self.busy, self._began = 0.0, math.inf
        self._count, self._stop = len(tasks), stop
        self._tasks, self._lock, self._closed = iter(tasks), threading.Lock(), threading.Event()
        self._ready: queue.Queue[Opened | BaseException] = queue.Queue(READY * workers)
        self._openers = [Opener(job, done) for _ in range(min(workers, len(tasks)))]
        self._threads = [threading.Thread(target=self._run, args=(one,), daemon=True) for one in self._openers]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for opener in self._openers:
            opener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def begin(self) -> None:
        """Count from now on in `busy` the seconds that the workers are at work, all together."""
        self._began = time.monotonic()

    def __iter__(self) -> Iterator[Opened | None]:
        left = self._count
        while left and not self._stop():
            try:
                one = self._ready.get_nowait()
            except queue.Empty:
                yield None
                try:
                    one = self._ready.get(timeout=TICK)
                except queue.Empty:
                    continue
            if isinstance(one, BaseException):
                raise one
            left -= 1
            yield one

    def _run(self, opener: Opener) -> None:
        try:
            while (task := self._next()) is not None:
                began = time.monotonic()
                opened = opener.open(task)
                flow, pieces = Flow(), opened.clip
                with self._lock:
                    self.busy += max(0.0, time.monotonic() - max(began, self._began))
                if isinstance(pieces, Generator):  # a long clip is looked at while this thread reads on
                    self._put(replace(opened, clip=flow.pieces()))
                    read = opened.seconds["decode"]
                    flow.fill(pieces, self._closed.is_set)
                    with self._lock:
                        self.busy += opened.seconds["decode"] - read
                else:
                    self._put(opened)
        except BaseException as error:  # told to whoever waits for the clip
            self._put(error)
        finally:
            opener.close()

    def _next(self) -> Task | None:
        with self._lock:
            return None if self._closed.is_set() else next(self._tasks, None)

    def _put(self, one: Opened | BaseException) -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put(one, timeout=TICK)
            except queue.Full:
                continue
