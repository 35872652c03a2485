"""The choice of frames to keep from a stream, in one pass and bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from .clip import Pixels

ROUNDING = 5e-4  # s; the largest rounding error of a container's clock, which ticks in milliseconds or less

Frame = TypeVar("Frame")


@dataclass
class _Kept:
    first: int  # the targets that this frame covers: first..last
    last: int
    time: float  # s
    pixels: Pixels  # (H, W, 3)


class Overrun(Exception):  # noqa: N818 - a signal, not an error
    """The span holds more frames than expected, and some have already been returned."""


class Sampler(Generic[Frame]):
    """Keeps, for each target time i · step, the frame displayed then: the last one that began by that time.

    The step is 1 / fps, or span / max_frames when `span` (s) holds more targets than `max_frames`. Where the span is
    not known, or proves longer, every other target is dropped whenever more than 2 · max_frames frames are held. A
    frame that covers several targets is kept once. `take` converts a kept frame to (H, W, 3) uint8; other frames are
    never converted. `rounding` (s): the largest error of a frame's time.

    Where the span is known, `drain` returns the frames kept so far. If more frames follow than expected, the choice was
    wrong: Overrun then asks the caller to start again without draining.
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
        self._next = 0  # the first target without a frame
        self._held: tuple[float, Frame] | None = None  # the newest frame: displayed until the next one
        self._kept: list[_Kept] = []
        self._bytes = 0  # of the kept frames
        self._drained = 0  # frames returned
        self._known = span is not None

    @property
    def next_target(self) -> float:
        """The earliest target time (s) without a frame."""
        return self._next * self._step

    def covers(self, time: float, until: float) -> bool:
        """Whether a frame displayed from `time` to `until` (s) covers an open target."""
        return self._last_before(until) >= max(self._next, self._last_before(time) + 1)

    @property
    def step(self) -> float:
        """Seconds between targets."""
        return self._step

    @property
    def ready(self) -> int:
        """Bytes that `drain` would return."""
        return self._bytes if self._known and self._drained + len(self._kept) <= self._max else 0

    def drain(self) -> tuple[npt.NDArray[np.float64], list[Pixels]]:
        """The frames kept since the last call, as `finish` returns them; none where the span is not known."""
        if not self.ready:
            return _arrays([])
        kept, self._kept, self._bytes = self._kept, [], 0
        self._drained += len(kept)
        return _arrays(kept)

    def offer(self, time: float, frame: Frame) -> None:
        """Take the next frame in order of time (s); the one before is displayed until then.

        A frame of an earlier time, as in a damaged file, is left out.
        """
        if self._held is not None and time < self._held[0]:
            return
        self._settle(time)
        self._held = (time, frame)

    def finish(self, end: float) -> tuple[npt.NDArray[np.float64], list[Pixels]]:
        """Times (F,) s and pixels not yet drained, of a video that ends at `end` (s); ≤ max_frames in all."""
        self._settle(end)
        self._held = None
        kept, self._kept = self._kept, []
        if self._drained:
            kept = kept[: self._max - self._drained]  # the last one is left out if it is one too many, as below
        elif len(kept) > self._max:
            kept = [kept[i * len(kept) // self._max] for i in range(self._max)]
        return _arrays(kept)

    def _settle(self, until: float) -> None:
        """The held frame covers every open target before `until`."""
        if self._held is None:
            return
        last = self._last_before(until)
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

    def _last_before(self, time: float) -> int:
        """The last target before `time` (s)."""
        return math.ceil((time - self._rounding) / self._step) - 1

    def _thin(self) -> None:
        """Double the step: only the even targets remain, and the frames that cover one of them."""
        self._step *= 2
        self._next = (self._next + 1) // 2
        halved = [_Kept((k.first + 1) // 2, k.last // 2, k.time, k.pixels) for k in self._kept]
        self._kept = [k for k in halved if k.first <= k.last]
        self._bytes = sum(k.pixels.nbytes for k in self._kept)


def _arrays(kept: list[_Kept]) -> tuple[npt.NDArray[np.float64], list[Pixels]]:
    # The frame displayed when the clip starts may have begun before it.
    return np.array([max(k.time, 0.0) for k in kept], dtype=np.float64), [k.pixels for k in kept]
