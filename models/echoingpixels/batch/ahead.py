"""Opens clips ahead of the model in threads, and passes on the pieces of a long clip while they are read."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from ..media.clip import Piece, Pieces
from .job import Job, Task
from .journal import Done
from .opening import Opened, Opener

READY = 2  # opened clips in the queue per worker; each holds its frames, or its first pieces


class Ahead:
    """Iterates over opened clips in order of completion; None when no clip is ready. Ends early when `stop` is true."""

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
        """Start to count in `busy` the seconds that all workers spend on reading."""
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
                if isinstance(pieces, Generator):  # a long clip is encoded while this thread reads on
                    self._put(replace(opened, clip=flow.pieces()))
                    read = opened.seconds["decode"]
                    flow.fill(pieces, self._closed.is_set)
                    with self._lock:
                        self.busy += opened.seconds["decode"] - read
                else:
                    self._put(opened)
        except BaseException as error:  # raised where the clip is taken
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


TICK = 0.25  # s between two checks of the stop conditions
WAITING = 2  # pieces in the queue


class Flow:
    """A short queue of pieces. An error of the reading thread is raised where the pieces are taken."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Piece | BaseException | None] = queue.Queue(WAITING)
        self._left = threading.Event()  # set when the taker has stopped

    def fill(self, pieces: Pieces, stop: Callable[[], bool]) -> None:
        """Read all pieces, until the taker stops or `stop` is true."""
        with closing(pieces):
            try:
                for piece in pieces:
                    if not self._put(piece, stop):
                        return
                self._put(None, stop)
            except BaseException as error:
                self._put(error, stop)

    def pieces(self) -> Pieces:
        """Take the pieces."""
        try:
            while True:
                try:
                    one = self._queue.get(timeout=TICK)  # in steps, so that Ctrl-C is handled
                except queue.Empty:
                    continue
                if one is None:
                    return
                if isinstance(one, BaseException):
                    raise one
                yield one
        finally:
            self._left.set()

    def _put(self, one: Piece | BaseException | None, stop: Callable[[], bool]) -> bool:
        while not self._left.is_set() and not stop():
            try:
                self._queue.put(one, timeout=TICK)
                return True
            except queue.Full:
                continue
        return False
