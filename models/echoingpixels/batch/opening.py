"""Opens one clip of a batch: from its path or address to frames and audio, or to cached features."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..checkpoints.fingerprint import features_mark, file_mark
from ..errors import EpError, InternalError
from ..features.cache import CachedClip, FeatureCache, feature_key
from ..media.clip import Clip, Piece, Pieces, whole
from ..media.container import check_file
from ..media.sandbox.worker import Worker
from ..options import MediaOptions
from .job import Job, Task, Wanted
from .journal import Done
from .remote import fetched, is_remote, remote_mark


@dataclass(frozen=True)
class Opened:
    """A clip, its cached features, or its error; with the questions to answer and their keys.

    A long clip comes in pieces, or stays UNREAD until the process that encodes it reads it. `features`: the key of its
    features in the cache. `skipped`: number of rows that were done before.
    """

    task: Task
    rows: tuple[tuple[str, Wanted], ...]
    clip: Clip | Pieces | CachedClip | EpError | Literal["unread"]
    seconds: dict[str, float] = field(default_factory=dict)
    features: str = ""
    skipped: int = 0


UNREAD: Literal["unread"] = "unread"
NOTHING = InternalError("No question is left to answer.")


class Opener:
    """Opens clips in a worker process. Rows that are `done` are skipped."""

    def __init__(self, job: Job, done: Done | None = None) -> None:
        self.job, self.done = job, done
        self.cache = None if job.cache is None else FeatureCache(job.cache)
        self._worker = Worker()

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker process; a clip that is being read fails."""
        self._worker.close()

    def open(self, task: Task) -> Opened:
        """Open the clip of a task. An error is returned in `clip`."""
        seconds: dict[str, float] = {}
        try:
            with _timed(seconds, "decode"):
                mark = mark_of(task.media)
                content = mark if is_remote(task.media) else features_mark(Path(task.media), mark)
        except EpError as error:
            return self._opened(task, f"unread:{task.media}", error, seconds)
        opened = self._opened(task, mark, NOTHING, seconds)
        return self._found(opened, content) if opened.rows else opened

    def _opened(self, task: Task, mark: str, clip: EpError, seconds: dict[str, float]) -> Opened:
        keyed = [(self.job.key(mark, task, wanted.question), wanted) for wanted in task.rows]
        rows = tuple((key, wanted) for key, wanted in keyed if not (self.done and self.done.take(key, wanted.id)))
        return Opened(task, rows, clip, seconds, skipped=len(keyed) - len(rows))

    def _found(self, opened: Opened, mark: str) -> Opened:
        options = opened.task.options(self.job.read)
        if self.cache is None:
            return replace(opened, clip=self._read(opened, options))
        key = feature_key(mark, self.job.weights.encoders, options)
        with _timed(opened.seconds, "decode"):
            cached = self.cache.get(key, opened.task.media)
        return replace(opened, clip=cached or self._read(opened, options), features=key)

    def _read(self, opened: Opened, options: MediaOptions) -> Clip | Pieces | EpError:
        media, pieces = opened.task.media, self._pieces(opened, options)
        try:
            first = next(pieces)
            every = _after(first, pieces)
            return whole(every) if first.ending else every
        except EpError as error:
            return error
        except Exception as error:  # one clip must not end the batch
            return InternalError(f"{media} could not be read: {type(error).__name__}: {error}.", "Please report it.")

    def _pieces(self, opened: Opened, options: MediaOptions) -> Pieces:
        media, seconds = opened.task.media, opened.seconds
        size = self.job.weights.resolution.size
        with ExitStack() as stack:
            path = Path(media)
            if is_remote(media):
                with _timed(seconds, "fetch"):
                    path = stack.enter_context(fetched(media))
            pieces = stack.enter_context(closing(self._worker.stream(path, options, frame_size=size)))
            while True:
                with _timed(seconds, "decode"):
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece


def _after(first: Piece, rest: Pieces) -> Pieces:
    """All pieces, of which the first was already taken."""
    with closing(rest):
        yield first
        yield from rest


def mark_of(media: str) -> str:
    """The mark of a clip's content, at a path or an address; part of a row's key. MediaError if it cannot be read."""
    return remote_mark(media) if is_remote(media) else file_mark(check_file(media))


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
