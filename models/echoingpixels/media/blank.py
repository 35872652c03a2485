"""The times, number and size of a clip's frames from its packets: only the first frame is decoded.

PacketTimes replaces the decoder of a VideoReader and BlankConverter its converter; the choice of frames is the same.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import av
import numpy as np

from .clip import Pixels
from .host import FrameSize, Resizer
from .rgb import FrameConverter

UNCLEAR = ("theora",)  # codecs that reject packets for reasons that only decoding shows
REORDER = 32  # packets; the largest distance by which codecs reorder frames


class UnclearError(Exception):
    """The packets do not determine the frames: decode them."""


@dataclass(frozen=True)
class FrameTime:
    """A frame without its pixels; times in the stream's units."""

    pts: int | None
    dts: int | None
    duration: int
    is_corrupt: bool = False


class PacketTimes:
    """The part of a codec context that a VideoReader uses: packets in, one FrameTime for each out, in order of time.

    Decodes up to the first `frame`. UnclearError where the packets do not determine the frames.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self._context = stream.codec_context
        if self._context.name in UNCLEAR:
            raise UnclearError
        self._context.thread_count = 1  # more threads would delay the first frame
        self._vp8 = self._context.name == "vp8"
        self._untimed = stream.container.format.name == "avi"
        self._held: list[tuple[int, int, FrameTime]] = []
        self._count = 0
        self._key: int | None = None  # time of the key frame from which all frames can be decoded
        self._frame: av.VideoFrame | None = None
        self.thread_type = self.skip_frame = ""
        self.thread_count = 0

    @property
    def frame(self) -> av.VideoFrame:
        """The first frame."""
        if self._frame is None:
            self._frame = next(iter(self._context.decode(None)), None)
        if self._frame is None:
            raise UnclearError
        return self._frame

    def decode(self, packet: av.Packet[av.VideoStream] | None) -> list[FrameTime]:
        """The frames that are due after a packet; None: all that remain."""
        if packet is None:
            return self._due(0)
        if self._frame is None:
            self._frame = next(iter(self._context.decode(packet)), None)
        if self._is_displayed(packet):
            pts = None if self._untimed else packet.pts
            order = self._count if pts is None else pts
            self._count += 1
            heapq.heappush(self._held, (order, self._count, FrameTime(pts, packet.dts, packet.duration or 0)))
        return self._due(REORDER)

    def flush_buffers(self) -> None:
        """Drop the pending frames; the next packet must be a key frame."""
        self._held.clear()
        self._key = None

    def _is_displayed(self, packet: av.Packet[av.VideoStream]) -> bool:
        if packet.is_corrupt or (packet.pts is None and not self._untimed):
            raise UnclearError
        if self._key is None:
            self._key = packet.pts or 0
            if not packet.is_keyframe:
                raise UnclearError
        if packet.pts is not None and packet.pts < self._key:  # built on frames before the key frame
            raise UnclearError
        return not (packet.is_discard or (self._vp8 and not memoryview(packet)[0] >> 4 & 1))

    def _due(self, held: int) -> list[FrameTime]:
        return [heapq.heappop(self._held)[2] for _ in range(len(self._held) - held)]


class BlankConverter(FrameConverter):
    """Black frames of the size of the first frame after conversion."""

    def __init__(self, times: PacketTimes, frame_size: FrameSize | None, expected: int, resize: Resizer) -> None:
        super().__init__(frame_size, expected, resize)
        self._times = times

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """Pixels (H, W, 3) uint8, a view of one byte."""
        if self._blank is None:
            self._blank = np.broadcast_to(np.uint8(0), super().__call__(self._times.frame).shape)
        return self._blank

    _blank: Pixels | None = None
