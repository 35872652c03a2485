"""A clip's frames by their packets' times alone: how many, when and how large, without decoding more than the first.

Stands in for the decoder and the developer of a VideoReader, which chooses frames as it always does.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import av
import numpy as np

from .clip import Pixels
from .host import FrameSize, Resizer
from .rgb import FrameConverter

UNCLEAR = ("theora",)  # codecs that refuse packets for reasons which only decoding shows
REORDER = 32  # packets; the most by which codecs shuffle frames


class UnclearError(Exception):
    """The packets do not tell which frames a decoder would give: decode them."""


@dataclass(frozen=True)
class FrameTime:
    """A frame without its pixels; times in the stream's units."""

    pts: int | None
    dts: int | None
    duration: int
    is_corrupt: bool = False


class PacketTimes:
    """What of a codec context a VideoReader uses: takes packets, and gives a FrameTime for each, in order of time.

    Decodes until there is one `frame`. UnclearError for packets whose frames cannot be foretold.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self._context = stream.codec_context
        if self._context.name in UNCLEAR:
            raise UnclearError
        self._context.thread_count = 1  # more would hold back the first frame
        self._vp8 = self._context.name == "vp8"
        self._untimed = stream.container.format.name == "avi"
        self._held: list[tuple[int, int, FrameTime]] = []
        self._count = 0
        self._key: int | None = None  # when the frame is shown from which on all can be decoded
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
        """The frames that are due after a packet, or after the last one."""
        if packet is None:
            return self._due(0)
        if self._frame is None:
            self._frame = next(iter(self._context.decode(packet)), None)
        if self._is_shown(packet):
            pts = None if self._untimed else packet.pts
            order = self._count if pts is None else pts
            self._count += 1
            heapq.heappush(self._held, (order, self._count, FrameTime(pts, packet.dts, packet.duration or 0)))
        return self._due(REORDER)

    def flush_buffers(self) -> None:
        """Forget what was not given; a key frame has to come next."""
        self._held.clear()
        self._key = None

    def _is_shown(self, packet: av.Packet[av.VideoStream]) -> bool:
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
    """Black frames of the size that the first frame has when it is developed."""

    def __init__(self, times: PacketTimes, frame_size: FrameSize | None, expected: int, resize: Resizer) -> None:
        super().__init__(frame_size, expected, resize)
        self._times = times

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """Pixels (H, W, 3) uint8 that take no memory."""
        if self._blank is None:
            self._blank = np.broadcast_to(np.uint8(0), super().__call__(self._times.frame).shape)
        return self._blank

    _blank: Pixels | None = None
