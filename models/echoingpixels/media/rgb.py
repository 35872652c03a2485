"""Decoded frames to RGB pixels, upright and of one size, in a thread beside the decoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.buffer import Buffer
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from .clip import Pixels
from .host import FrameSize, Resizer

HDR = (16, 18)  # transfer characteristics PQ and HLG
WAITING = 4  # decoded frames that wait for the thread at most


class FrameConverter:
    """Converts decoded frames to upright RGB pixels, all of the size chosen for `expected` frames.

    A thread converts all but the first: call `wait` before their pixels are read, and `close` at the end.
    """

    def __init__(self, frame_size: FrameSize | None, expected: int, resize: Resizer) -> None:
        self._frame_size, self._expected, self._resize = frame_size, expected, resize
        self._reformatter = VideoReformatter()
        self._thread = ThreadPoolExecutor(1, "convert")
        self._pending: deque[Future[None]] = deque()
        self._size: tuple[int, int] | None = None
        self.shape: tuple[int, int] | None = None  # (height, width) of the first frame as displayed, before resizing
        self.rotation = 0  # degrees counterclockwise, of the first frame
        self.hdr = False

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """Pixels (H, W, 3) uint8, filled until `wait` returns. Raises the error of an earlier frame, if any."""
        if self._size is None:
            return self._converted(frame)
        if len(self._pending) == WAITING:
            self._pending.popleft().result()
        pixels = np.empty((*self._size, 3), np.uint8)
        self._pending.append(self._thread.submit(self._fill, pixels, frame))
        return pixels

    def wait(self) -> None:
        """Wait until all pixels are filled. Raises the error of a frame, if any."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """End the thread; frames that still wait are dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _fill(self, pixels: Pixels, frame: av.VideoFrame) -> None:
        pixels[:] = self._converted(frame)

    def _converted(self, frame: av.VideoFrame) -> Pixels:
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)  # others decode meanwhile
        pixels: Pixels = rgb.to_ndarray().astype(np.uint8, copy=False)
        pixels = np.ascontiguousarray(upright(pixels, display_matrix(frame)))
        height, width = pixels.shape[:2]
        if self._size is None:
            self.shape, self.rotation, self.hdr = (height, width), frame.rotation % 360, frame.color_trc in HDR
            self._size = (height, width)
            if self._frame_size is not None:
                self._size = self._frame_size(height, width, self._expected, False)
        if pixels.shape[:2] != self._size:
            pixels = self._resize(pixels, self._size)
        return pixels


def display_matrix(frame: av.VideoFrame) -> npt.NDArray[np.int32] | None:
    """FFmpeg's 3 × 3 display matrix (9,), or None."""
    # `frame.side_data` would create a reference cycle, and every frame would wait for the garbage collector.
    data = cast(Mapping[str, Buffer], cast(Any, SideDataContainer)(frame)).get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), dtype=np.int32)


def upright(pixels: Pixels, matrix: npt.NDArray[np.int32] | None) -> Pixels:
    """Apply the quarter turns and reflections of a display matrix: x' = a x + c y, y' = b x + d y."""
    if matrix is None or len(matrix) != 9:
        return pixels
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    if d < 0:
        pixels = pixels[::-1]
    return pixels
