"""A video stream decoded to the frames that the sampler keeps.

Packets are held until one of their frames is needed: a group of pictures without a sampling target is never decoded, so
sampling a long film sparsely costs little more than reading it. In a group that is decoded, frames that are neither
needed nor reference frames are skipped.
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
from .container import FAILURES, clock
from .rgb import FrameConverter
from .sampler import ROUNDING, Sampler

THREADS = 4  # of the decoder, on any number of cores: it decodes while a frame is converted, resized or returned
BACKLOG = 1 << 26  # bytes of packets held at most
EPS = 1e-3  # s; two times this close are equal
JUMP, GAP = 1.0, 3600.0  # s; a clock that goes back or ahead by more has restarted
AHEAD = 4  # packets inspected before one is decoded, to know when the next frame is displayed


class VideoReader:
    """Decodes a video stream's packets, in file order, and keeps the sampled frames.

    `origin`: the stream's time (s) that is the clip's 0. `limit`: the end of the clip, or infinity. `span`: the
    duration of the video within the clip, if known. All but `origin` are in seconds of the clip.
    """

    def __init__(
        self,
        stream: av.VideoStream,
        origin: Fraction,
        limit: float,
        span: float | None,
        fps: float,
        max_frames: int,
        converter: FrameConverter,
        times: PacketTimes | None = None,
    ) -> None:
        """`times` replaces the decoder: see PacketTimes."""
        self._context: Any = times or stream.codec_context
        self._context.thread_type = "AUTO"
        self._context.thread_count = THREADS
        self._clock, self._limit = clock(stream.time_base, origin), limit
        self._unit = float(stream.time_base or 1)  # s
        self._interval = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        self.converter = converter
        self._rounding = min(self._unit / 2, ROUNDING)
        self._sampler: Sampler[av.VideoFrame] = Sampler(fps, max_frames, span, self.converter, self._rounding)
        self._backlog: list[tuple[av.Packet[av.VideoStream], float | None]] = []
        self._held_bytes = 0  # bytes
        self._queue: deque[tuple[av.Packet[av.VideoStream], float | None]] = (
            deque()
        )  # packets to be decoded next, with their times
        self._display_times: deque[float] = deque(maxlen=4 * AHEAD)  # display times of the last packets
        self._fed = False  # whether the decoder holds frames
        self._lead = -math.inf  # frames displayed before this depend on skipped ones
        self._expected: float | None = None  # time of the key frame that should be decoded first after a skip
        # AVI has no presentation times: frames are decoded in order, so each takes the next slot (FFmpeg's dts).
        self._slots: deque[int] | None = deque() if stream.container.format.name == "avi" else None
        self._skips = self._slots is None
        self._newest: tuple[float, float, av.VideoFrame] | None = None  # time, duration; the next frame confirms it
        self._settled = -math.inf  # time of the last confirmed frame
        self._shift = 0.0  # added to the stream's time after its clock restarted
        self._decoding: float | None = None  # decoding time of the last packet
        self._failed = 0  # packets in a row
        self._spacing = 1 / fps  # s
        self.done = False
        self.kept = 0  # frames returned
        self.first: float | None = None  # display time of the first decoded frame
        self.end = -math.inf  # end of the video
        self.packets = 0
        self.damaged = 0  # packets that could not be decoded, or gave corrupt frames
        self.reason = ""  # of the last failure

    def feed(self, packet: av.Packet[av.VideoStream]) -> None:
        """Decode or hold the next packet."""
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
        self._held_bytes += packet.size
        if time is None or time > target or self._held_bytes >= BACKLOG or not self._skips:
            self._release()

    def finish(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """No more packets: the remaining times (F,) s and frames (F, H, W, 3)."""
        if not self.done:
            self._release()
            self._flush()
            self._confirm()
        self.done = True
        self.end = min(self.end, self._limit)
        return self._stacked(*self._sampler.finish(self.end))

    def drain(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """The times (F,) s and frames (F, H, W, 3) kept since the last call, as far as they are final."""
        return self._stacked(*self._sampler.drain())

    @property
    def ready(self) -> int:
        """Bytes that `drain` would return."""
        return self._sampler.ready

    @property
    def apart(self) -> float | None:
        """Seconds between frames where `max_frames` allows fewer frames than `fps`; else None."""
        return self._sampler.step if self._sampler.step > self._spacing + EPS else None

    def _stacked(
        self, times: npt.NDArray[np.float64], kept: list[Pixels]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        if not kept:
            return times, np.zeros((0, *(self.converter.shape or (0, 0)), 3), np.uint8)
        self.converter.wait()
        self.kept += len(kept)
        frames = np.empty((len(kept), *kept[0].shape), np.uint8)
        for i in range(len(kept)):  # frees each frame after its copy, so that memory holds few twice
            frames[i], kept[i] = kept[i], kept[0][:0]
        return times, frames

    def _follow(self, time: float) -> None:
        """Where the stream's clock jumps, as in joined recordings, continue the clip's clock without the jump."""
        last = self._decoding
        self._decoding = time
        if last is not None and not last - JUMP <= time <= last + GAP:
            self._release()
            self._flush()
            self._context.flush_buffers()
            self._display_times.clear()
            self._confirm()
            self._shift += last + self._interval - time

    def _skip_to(self, time: float) -> None:
        """Drop the waiting packets: no frame displayed before the key frame at `time` is needed."""
        self._decode_until(0)
        if self._fed:
            self._flush()
            self._context.flush_buffers()
        if self._fed or self._backlog:
            self._lead = self._expected = time
        self._fed = False
        self._backlog.clear()
        self._held_bytes = 0

    def _release(self) -> None:
        for packet, time in self._backlog:
            self._queue.append((packet, time))
            if time is not None:
                self._display_times.append(time)
            self._decode_until(AHEAD)
        self._backlog.clear()
        self._held_bytes = 0

    def _decode_until(self, waiting: int) -> None:
        """Decode packets until at most `waiting` of them wait."""
        while len(self._queue) > waiting:
            packet, time = self._queue.popleft()
            self._context.skip_frame = "DEFAULT" if self._is_needed(time) else "NONREF"
            self._decode(packet)

    def _flush(self) -> None:
        """Decode all waiting packets, and the frames that the decoder holds."""
        self._decode_until(0)
        self._decode(None)

    def _is_needed(self, time: float | None) -> bool:
        """Whether a frame displayed from `time` on may cover a target, as far as is known."""
        if time is None or self._slots is not None:  # without display times every frame may
            return True
        until = min((other for other in self._display_times if other > time), default=math.inf)
        return until == math.inf or self._sampler.covers(time, until)

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
            self.damaged += packet is None or not packet.is_corrupt  # corrupt packets are already counted
            self._failed += 1
            if self._slots:
                self._slots.popleft()
            self.reason = (error.strerror or str(error)).lower()
            if isinstance(error, FullError):  # it accepted nothing and would refuse every packet
                self._context.flush_buffers()
            self.done = self._failed >= FAILURES
            return
        for frame in frames:
            self._failed = 0
            self._place(frame)

    def _place(self, frame: av.VideoFrame) -> None:
        """Place the frame on the clip's clock and confirm the one before."""
        newest = self._newest[0] if self._newest else None
        stamp = self._stamp(frame)
        if stamp is not None:
            time = self._clock(stamp) + self._shift
        else:
            time = 0.0 if newest is None else newest + self._interval
        if self._expected is not None:
            self._skips = self._skips and time <= self._expected + EPS  # else decoding cannot start at its key frames
            self._expected = None
        self.damaged += frame.is_corrupt
        if newest is not None and time < newest - EPS:
            if time <= self._settled + EPS:
                return
            self._newest = None  # its time is wrong: this frame and the one before the last agree
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
