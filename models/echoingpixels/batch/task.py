"""The input of a batch: clips with their questions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..options import MediaOptions


@dataclass(frozen=True)
class Wanted:
    """A question of a task. `id`: the user's own, or the clip's path or address."""

    id: str
    question: str


@dataclass(frozen=True)
class Task:
    """One clip and its questions. `media` is a path or an address; `start` and `end` in s.

    `max_frames`: the limit of a retry after memory ran out, else None; `retried`: the sentence that reports it.
    """

    media: str
    rows: tuple[Wanted, ...]
    start: float | None = None
    end: float | None = None
    max_frames: int | None = None
    retried: str | None = None

    def options(self, read: MediaOptions) -> MediaOptions:
        """How to read this clip."""
        start = read.start if self.start is None else self.start
        end = read.end if self.end is None else self.end
        return replace(read, start=start, end=end, max_frames=self.max_frames or read.max_frames)
