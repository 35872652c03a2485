"""Chooses which frames of a stream to keep, in one pass and bounded memory. Knows nothing about files or decoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from .clip import Pixels

ROUNDING = 5e-4  # s; the most by which a container's clock, in milliseconds at worst, rounds a time

Frame = TypeVar("Frame")


@dataclass
class _Kept:
    first: int  # the targets this frame is the answer to: first..last
    last: int
    time: float  # s
    pixels: Pixels  # (H, W, 3)


class Overrun(Exception):  # noqa: N818 - no mistake of anyone
    """More frames are wanted than the span had places for, and some have been handed over already."""


class Sampler(Generic[Frame]):
    """Keeps, for each target time i · step, the frame on show then: the last one that began by that time.

    The step is 1 / fps, or span / max_frames when `span` (s) holds more targets than `max_frames`. Where the span is
    not known, or proves longer, every other target is dropped whenever more than 2 · max_frames frames are held. A
    frame is kept once however many targets it answers. `take` turns a kept frame into (H, W, 3) uint8; the others
    never are.
    `rounding` (s): a frame's time may be off by this much.

    Where the span is known, `drain` hands over what is kept so far. Should more frames come than were foreseen, which
    ones to keep would have been another choice: Overrun then says to begin anew, and not to drain.
    """

    def __init__(
        self,
        fps: float,
        max_frames: int,
        span: float | None,
        take: Callable[[Frame], Pixels],
        rounding: float = ROUNDING,
    ) -> None:
        self._max = max_frames
        self._rounding = rounding + 1e-6
        self._take = take
        self._step = 1 / fps
        if span is not None and span * fps > max_frames + ROUNDING:
            self._step = span / max_frames
        self._next = 0  # the first target without an answer
        self._held: tuple[float, Frame] | None = None  # the newest frame: on show until the next one arrives
        self._kept: list[_Kept] = []
        self._bytes = 0  # of those
        self._drained = 0  # frames handed over
        self._known = span is not None

    @property
    def next_target(self) -> float:
        """The earliest time (s) whose frame is still undecided."""
        return self._next * self._step

    @property
    def step(self) -> float:
        """Seconds between targets."""
        return self._step

    @property
    def ready(self) -> int:
        """Bytes that `drain` would hand over."""
        return self._bytes if self._known and self._drained + len(self._kept) <= self._max else 0

    def drain(self) -> tuple[npt.NDArray[np.float64], list[Pixels]]:
        """The frames kept since last time, as `finish` gives them; none where the span is not known."""
        if not self.ready:
            return _given([])
        kept, self._kept, self._bytes = self._kept, [], 0
        self._drained += len(kept)
        return _given(kept)

    def offer(self, time: float, frame: Frame) -> None:
        """The next frame in order of time (s); the one before is on show until then."""
        self._settle(time)
        self._held = (time, frame)

    def finish(self, end: float) -> tuple[npt.NDArray[np.float64], list[Pixels]]:
        """The picture ends at `end` (s): the times (F,) s and pixels of what was not drained; in all ≤ max_frames."""
        self._settle(end)
        self._held = None
        kept, self._kept = self._kept, []
        if self._drained:
            kept = kept[: self._max - self._drained]  # of one too many the last is left out, as below
        elif len(kept) > self._max:
            kept = [kept[i * len(kept) // self._max] for i in range(self._max)]
        return _given(kept)

    def _settle(self, until: float) -> None:
        """The held frame answers every open target before `until`."""
        if self._held is None:
            return
        last = math.ceil((until - self._rounding) / self._step) - 1
        if last < self._next:
            return
        time, frame = self._held
        self._kept.append(_Kept(self._next, last, time, self._take(frame)))
        self._bytes += self._kept[-1].pixels.nbytes
        self._next = last + 1
        if self._drained and self._drained + len(self._kept) > self._max + 1:
            raise Overrun
        while len(self._kept) > 2 * self._max:
            self._thin()

    def _thin(self) -> None:
        """Doubles the step: of the targets only the even ones stay, and the frames that answer one of them."""
        self._step *= 2
        self._next = (self._next + 1) // 2
        halved = [_Kept((k.first + 1) // 2, k.last // 2, k.time, k.pixels) for k in self._kept]
        self._kept = [k for k in halved if k.first <= k.last]
        self._bytes = sum(k.pixels.nbytes for k in self._kept)


def _given(kept: list[_Kept]) -> tuple[npt.NDArray[np.float64], list[Pixels]]:
    # What is on show when the clip starts may have begun before it.
    return np.array([max(k.time, 0.0) for k in kept], dtype=np.float64), [k.pixels for k in kept]
