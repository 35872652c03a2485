"""What a batch is made of: clips with their questions. Knows nothing about how they are found or answered."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..options import MediaOptions


@dataclass(frozen=True)
class Wanted:
    """One row of the output to be: `id` is the user's own, or the clip's place."""

    id: str
    question: str


@dataclass(frozen=True)
class Task:
    """One clip and all that is asked about it. `media` is a path or an address; `start` and `end` in s.

    `max_frames`: fewer than the job's, where memory ran out; `retried` then says so.
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
