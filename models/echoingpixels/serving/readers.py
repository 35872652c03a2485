"""Worker processes that read clips for a server, within limits on size and time."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

from ..errors import MediaError
from ..media import Worker
from ..media.clip import SAMPLE_RATE, Clip, Pieces, whole
from ..media.host import FrameSize
from ..media.sandbox.protocol import too_large
from ..options import MediaOptions
from .media import Found
from .settings import Bounds

Check = Callable[[], object]


class Readers:
    """The worker processes of a server, and threads that use them: `pool`. A thread that finds none free waits."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self.pool = ThreadPoolExecutor(bounds.readers, "ep-reader")
        self.every = [Worker() for _ in range(bounds.workers)]
        for worker in self.every:
            self._free.put(worker)

    def start(self) -> None:
        """Start the processes, so that the first clip does not wait for them."""
        for worker in self.every:
            with suppress(MediaError):  # reported by the first clip
                worker.start()

    def close(self) -> None:
        """End the processes and the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in self.every:
            worker.close()
        self.pool.shutdown(wait=True)

    def check(self, found: Found) -> Future[None]:
        """Check in a thread that a file is media. MediaError if it is not."""
        return self.pool.submit(self._check, found)

    def read(self, found: Found, options: MediaOptions, check: Check, size: FrameSize) -> tuple[Clip, float]:
        """The whole clip with frames of a `size`, and the seconds to read it. `check` is called on the way.

        MediaError where it cannot be read, with the server's path.
        """
        with self._worker() as worker:
            check()
            began = time.monotonic()
            pieces = worker.stream(found.path, options, frame_size=size)
            clip = whole(self._bounded(pieces, found, worker.limits.bytes, began, check))
            source = clip.source
            warnings, notes = (
                tuple(found.relabel(text, "The clip") for text in texts) for texts in (source.warnings, source.notes)
            )
            source = replace(source, path=found.label, warnings=warnings, notes=notes)
            return replace(clip, source=source), time.monotonic() - began

    def _bounded(self, pieces: Pieces, found: Found, most: int, began: float, check: Check) -> Pieces:
        """The same pieces within limits on their size and time, while the client waits."""
        size = samples = 0
        with closing(pieces):
            for piece in pieces:
                check()
                size += piece.frames.nbytes + piece.audio.nbytes
                if size > most:
                    raise too_large(str(found.path), most)
                samples += len(piece.audio)
                if max(0.0, samples / SAMPLE_RATE, *piece.times[-1:]) > self._bounds.seconds:
                    message = f"{found.path} is longer than {self._bounds.seconds:g} s."
                    raise MediaError(message, "Ask about a part of it, with start and end.")
                if time.monotonic() - began > self._bounds.read_s:
                    late = f"{found.path} was not read within {self._bounds.read_s:g} s."
                    raise MediaError(late, "Ask about a part of it, with start and end.")
                yield piece

    def _check(self, found: Found) -> None:
        with found.labelled(found.label), self._worker() as worker:
            worker.check(found.path)

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        """A worker process that no other thread uses."""
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)
