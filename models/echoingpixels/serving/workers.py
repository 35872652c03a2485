"""The sandbox processes of a server that read media: each serves one thread at a time."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from ..errors import MediaError
from ..media import Worker
from .media import Found


class Workers:
    """A number of processes, and threads that use them. There may be more threads, which prepare meanwhile."""

    def __init__(self, number: int, threads: int) -> None:
        self.every = [Worker() for _ in range(number)]
        self.pool = ThreadPoolExecutor(threads, "ep-reader")
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.every:
            self._free.put(worker)

    def start(self) -> None:
        """Start the processes, so that the first clip does not wait for them."""
        for worker in self.every:
            with suppress(MediaError):  # reported by the first clip
                worker.start()

    def check(self, found: Found) -> Future[None]:
        """Check in a thread that a file is media. MediaError if it is not."""
        return self.pool.submit(self._check, found)

    @contextmanager
    def one(self) -> Iterator[Worker]:
        """A process that no other thread uses."""
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the processes and the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in self.every:
            worker.close()
        self.pool.shutdown(wait=True)

    def _check(self, found: Found) -> None:
        try:
            with self.one() as worker:
                worker.check(found.path)
        except MediaError as error:
            raise MediaError(found.relabel(error.message, found.label), error.hint) from None
