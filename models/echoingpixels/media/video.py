"""The picture: packets decoded to frames, and the wanted ones kept. Knows nothing about files, pixels or sound.

Packets are kept back until one of their frames is known to be wanted: a stretch up to the next key frame that holds no
target is never decoded, so sampling a long film sparsely costs little more than reading it. Of a stretch that is
decoded, frames that are neither wanted nor built upon are left out.
"""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import BlockingIOError as FullError
from av.error import EOFError as DrainedError
from av.error import FFmpegError

from .blank import PacketTimes
from .clip import Pixels
from .container import clock
from .rgb import FrameConverter
from .sampler import ROUNDING, Sampler

THREADS = 4  # that decode, however few cores: while a frame is converted, resized or handed over, others are decoded
BACKLOG = 1 << 26  # bytes of packets kept back at most
EPS = 1e-3  # s; two times this near are the same
JUMP, GAP = 1.0, 3600.0  # s; a clock that goes back or ahead by more has been set anew
FAILURES = 300  # packets in a row that cannot be decoded, before giving up
AHEAD = 4  # packets that are looked at before one is decoded, to know when the next frame is shown


class VideoReader:
    """Takes a video stream's packets in file order and keeps the frames wanted.

    `origin`: the stream's time (s) that is the clip's 0. `limit`: where the clip ends, or infinity. `span`: how long
    the picture lasts within the clip, if known. All but `origin` are in seconds of the clip.
    """

    def __init__(
        self,
        stream: av.VideoStream,
        origin: Fraction,
        limit: float,
        span: float | None,
        fps: float,
        max_frames: int,
        developer: FrameConverter,
        times: PacketTimes | None = None,
    ) -> None:
        """`times` in place of a decoder: see there."""
        self._context: Any = times or stream.codec_context
        self._context.thread_type = "AUTO"
        self._context.thread_count = THREADS
        self._clock, self._limit = clock(stream.time_base, origin), limit
        self._unit = float(stream.time_base or 1)  # s
        self._interval = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        self.developer = developer
        self._rounding = min(self._unit / 2, ROUNDING)
        self._sampler: Sampler[av.VideoFrame] = Sampler(fps, max_frames, span, self.developer, self._rounding)
        self._backlog: list[tuple[av.Packet[av.VideoStream], float | None]] = []
        self._kept_back = 0  # bytes
        self._turn: deque[tuple[av.Packet[av.VideoStream], float | None]] = deque()  # to be decoded, with their times
        self._shown: deque[float] = deque(maxlen=4 * AHEAD)  # when the frames of the last packets are
        self._fed = False  # whether the decoder holds anything
        self._lead = -math.inf  # frames shown before this are built on what was skipped
        self._expected: float | None = None  # the key frame that should come out first after a skip
        # AVI has no presentation times: frames come out in order, so each takes the next slot (FFmpeg's dts).
        self._slots: deque[int] | None = deque() if stream.container.format.name == "avi" else None
        self._skips = self._slots is None
        self._newest: tuple[float, float, av.VideoFrame] | None = None  # time, duration; the next frame confirms it
        self._settled = -math.inf  # time of the last confirmed frame
        self._shift = 0.0  # added to the stream's time after it began anew
        self._decoding: float | None = None  # when the last packet was to be decoded
        self._failed = 0  # packets in a row
        self._wanted = 1 / fps  # s
        self.done = False
        self.kept = 0  # frames given
        self.first: float | None = None  # when the first decoded frame is shown
        self.end = -math.inf  # where the picture ends
        self.packets = 0
        self.damaged = 0  # packets that could not be decoded, or came out corrupt
        self.reason = ""  # of the last failure

    def feed(self, packet: av.Packet[av.VideoStream]) -> None:
        """Takes the next packet."""
        if self.done:
            return
        self.packets += 1
        self.damaged += packet.is_corrupt
        if packet.dts is not None:
            self._follow(self._clock(packet.dts))
        target = self._sampler.next_target + self._rounding
        time = None if packet.pts is None else self._clock(packet.pts) + self._shift
        if time is not None:
            if min(time, target) >= self._limit:  # every target has its frame
                self.done, self.end = True, self._limit
                return
            if packet.is_keyframe and time <= target and self._skips:
                self._skip_to(time)
            if time < self._lead:
                return
        self._backlog.append((packet, time))
        self._kept_back += packet.size
        if time is None or time > target or self._kept_back >= BACKLOG or not self._skips:
            self._release()

    def finish(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """No more packets: returns times (F,) s and frames (F, H, W, 3)."""
        if not self.done:
            self._release()
            self._flush()
            self._confirm()
        self.done = True
        self.end = min(self.end, self._limit)
        return self._stacked(*self._sampler.finish(self.end))

    def drain(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """What was kept since last time, if that is settled already: times (F,) s and frames (F, H, W, 3)."""
        return self._stacked(*self._sampler.drain())

    @property
    def ready(self) -> int:
        """Bytes that `drain` would give."""
        return self._sampler.ready

    @property
    def apart(self) -> float | None:
        """Seconds from one frame to the next where the most frames do not allow for as many as were asked for."""
        return self._sampler.step if self._sampler.step > self._wanted + EPS else None

    def _stacked(
        self, times: npt.NDArray[np.float64], kept: list[Pixels]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        if not kept:
            return times, np.zeros((0, *(self.developer.shape or (0, 0)), 3), np.uint8)
        self.kept += len(kept)
        frames = np.empty((len(kept), *kept[0].shape), np.uint8)
        for i in range(len(kept)):  # hands each over, so that no frame is held twice for long
            frames[i], kept[i] = kept[i], kept[0][:0]
        return times, frames

    def _follow(self, time: float) -> None:
        """Notices a clock that jumps, as where recordings were joined, and lets the clip's run on."""
        last = self._decoding
        self._decoding = time
        if last is not None and not last - JUMP <= time <= last + GAP:
            self._release()
            self._flush()
            self._context.flush_buffers()
            self._shown.clear()
            self._confirm()
            self._shift += last + self._interval - time

    def _skip_to(self, time: float) -> None:
        """Nothing shown before the key frame at `time` is wanted any more."""
        self._take(0)
        if self._fed:
            self._flush()
            self._context.flush_buffers()
        if self._fed or self._backlog:
            self._lead = self._expected = time
        self._fed = False
        self._backlog.clear()
        self._kept_back = 0

    def _release(self) -> None:
        for packet, time in self._backlog:
            self._turn.append((packet, time))
            if time is not None:
                self._shown.append(time)
            self._take(AHEAD)
        self._backlog.clear()
        self._kept_back = 0

    def _take(self, waiting: int) -> None:
        """Decodes what has its turn, so that no more than so many packets wait."""
        while len(self._turn) > waiting:
            packet, time = self._turn.popleft()
            self._context.skip_frame = "DEFAULT" if self._is_wanted(time) else "NONREF"
            self._decode(packet)

    def _flush(self) -> None:
        """Decodes all that waits, and what the decoder still holds."""
        self._take(0)
        self._decode(None)

    def _is_wanted(self, time: float | None) -> bool:
        """Whether a frame shown from `time` on may be on show at a target, as far as is known by now."""
        if time is None or self._slots is not None:  # without times of its own every frame counts
            return True
        until = min((other for other in self._shown if other > time), default=math.inf)
        step, slack = self._sampler.step, self._rounding + EPS
        return until == math.inf or math.floor((until + slack) / step) >= math.ceil((time - slack) / step)

    def _decode(self, packet: av.Packet[av.VideoStream] | None) -> None:
        if self.done:
            return
        self._fed = True
        if self._slots is not None and packet is not None and packet.dts is not None:
            self._slots.append(packet.dts)
        try:
            frames = self._context.decode(packet)
        except DrainedError:
            return
        except FFmpegError as error:
            self.damaged += packet is None or not packet.is_corrupt  # those are counted already
            self._failed += 1
            if self._slots:
                self._slots.popleft()
            self.reason = (error.strerror or str(error)).lower()
            if isinstance(error, FullError):  # it took nothing and would refuse for ever
                self._context.flush_buffers()
            self.done = self._failed >= FAILURES
            return
        for frame in frames:
            self._failed = 0
            self._place(frame)

    def _place(self, frame: av.VideoFrame) -> None:
        """Puts the frame on the clip's clock and confirms the one before."""
        newest = self._newest[0] if self._newest else None
        stamp = self._stamp(frame)
        if stamp is not None:
            time = self._clock(stamp) + self._shift
        else:
            time = 0.0 if newest is None else newest + self._interval
        if self._expected is not None:
            self._skips = self._skips and time <= self._expected + EPS  # else its key frames are no clean entry points
            self._expected = None
        self.damaged += frame.is_corrupt
        if newest is not None and time < newest - EPS:
            if time <= self._settled + EPS:
                return
            self._newest = None  # a false time: this frame and the one before the last agree
        self._confirm()
        self._newest = (time, frame.duration * self._unit or self._interval, frame)
        self.first = time if self.first is None else self.first

    def _stamp(self, frame: av.VideoFrame) -> int | None:
        """The frame's time in the stream's units, or None."""
        if self._slots is not None:
            return self._slots.popleft() if self._slots else None
        return frame.pts if frame.pts is not None else frame.dts

    def _confirm(self) -> None:
        if self._newest is None:
            return
        (time, duration, frame), self._newest = self._newest, None
        self._settled = time
        self.end = max(self.end, time + duration)
        if time >= self._limit:
            self.done = True
        else:
            self._sampler.offer(time, frame)
