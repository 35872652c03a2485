"""One clip of a batch, from its place to what the model can look at. Knows nothing about answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..checkpoints.fingerprint import features_mark, file_mark
from ..errors import EpError, InternalError
from ..features.cache import FeatureCache, Seen, seen_key
from ..media.clip import Clip, Piece, Pieces, whole
from ..media.container import check_file
from ..media.worker import Worker
from ..options import MediaOptions
from .job import Job
from .journal import Done
from .remote import fetched, is_remote, remote_mark
from .task import Task, Wanted


@dataclass(frozen=True)
class Opened:
    """A clip that was read, what the cache has of it, or why neither could be; with the rows to answer and their keys.

    A long clip comes in pieces, or is left UNREAD for whoever looks at it.
    `features`: the key of its features in the cache; `skipped`: rows that are done already.
    """

    task: Task
    rows: tuple[tuple[str, Wanted], ...]
    look: Clip | Pieces | Seen | EpError | Literal["unread"]
    seconds: dict[str, float] = field(default_factory=dict)
    features: str = ""
    skipped: int = 0


UNREAD: Literal["unread"] = "unread"
NOTHING = InternalError("Nothing is left to be answered.")


class Opener:
    """Opens clips, each in a process that can be ended. Rows that are `done` are left out."""

    def __init__(self, job: Job, done: Done | None = None) -> None:
        self.job, self.done = job, done
        self.cache = None if job.cache is None else FeatureCache(job.cache)
        self._worker = Worker()

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a clip that is being read fails."""
        self._worker.close()

    def open(self, task: Task) -> Opened:
        """The clip of a task. What goes wrong is told in its `look`, and fails nothing but this clip."""
        seconds: dict[str, float] = {}
        try:
            with _timed(seconds, "decode"):
                mark = mark_of(task.media)
                kept = mark if is_remote(task.media) else features_mark(Path(task.media), mark)
        except EpError as error:
            return self._opened(task, f"unread:{task.media}", error, seconds)
        opened = self._opened(task, mark, NOTHING, seconds)
        return self._look(opened, kept) if opened.rows else opened

    def _opened(self, task: Task, mark: str, look: EpError, seconds: dict[str, float]) -> Opened:
        keyed = [(self.job.key(mark, task, wanted.question), wanted) for wanted in task.rows]
        rows = tuple((key, wanted) for key, wanted in keyed if not (self.done and self.done.take(key, wanted.id)))
        return Opened(task, rows, look, seconds, skipped=len(keyed) - len(rows))

    def _look(self, opened: Opened, mark: str) -> Opened:
        options = opened.task.options(self.job.read)
        if self.cache is None:
            return replace(opened, look=self._read(opened, options))
        key = seen_key(mark, self.job.weights.encoders, options)
        with _timed(opened.seconds, "decode"):
            seen = self.cache.get(key, opened.task.media)
        return replace(opened, look=seen or self._read(opened, options), features=key)

    def _read(self, opened: Opened, options: MediaOptions) -> Clip | Pieces | EpError:
        media, pieces = opened.task.media, self._pieces(opened, options)
        try:
            first = next(pieces)
            all_of_it = _after(first, pieces)
            return whole(all_of_it) if first.ending else all_of_it
        except EpError as error:
            return error
        except Exception as error:  # one clip must not end the batch
            return InternalError(f"{media} could not be read: {type(error).__name__}: {error}.", "Please report it.")

    def _pieces(self, opened: Opened, options: MediaOptions) -> Pieces:
        media, seconds = opened.task.media, opened.seconds
        with ExitStack() as stack:
            path = Path(media)
            if is_remote(media):
                with _timed(seconds, "fetch"):
                    path = stack.enter_context(fetched(media))
            pieces = stack.enter_context(closing(self._worker.stream(path, options)))
            while True:
                with _timed(seconds, "decode"):
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece


def _after(first: Piece, rest: Pieces) -> Pieces:
    """The first piece again, and the rest."""
    with closing(rest):
        yield first
        yield from rest


def mark_of(media: str) -> str:
    """The mark of a clip's content, wherever it lies: a row's key. MediaError where there is nothing to be read."""
    return remote_mark(media) if is_remote(media) else file_mark(check_file(media))


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
