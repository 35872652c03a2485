"""Callbacks to the process that asked for a file, and the resize of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .clip import Pixels

FrameSize = Callable[[int, int, int, bool], tuple[int, int]]
Resizer = Callable[[Pixels, tuple[int, int]], Pixels]


def no_op() -> None:
    """Does nothing."""


def resize(frame: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize one frame (H, W, 3) uint8 to (h, w, 3) uint8."""
    import torch  # takes seconds to import, and the worker process does without it

    if frame.shape[:2] == size:
        return frame
    planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    planes = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())  # torch would start its threads for the copy


@dataclass(frozen=True)
class Host:
    """Callbacks to the process that asked for a file.

    `frame_size` returns the (height, width) of the frames kept; None keeps their size. It is called once with the
    displayed height and width, the expected number of frames, and whether the file is a still image. `resize` makes
    frames (H, W, 3) smaller. `beat` is called for every packet read, as a heartbeat. `blank`: only times and sizes of
    frames are needed, so their pixels may be black.
    """

    resize: Resizer = resize
    beat: Callable[[], None] = no_op
    blank: bool = False
    frame_size: FrameSize | None = None

    @property
    def local(self) -> bool:
        """Whether the file is read in the process that asked for it."""
        return self.resize is resize
