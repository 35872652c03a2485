"""What reading a file leaves to whoever asked for it, who may be in another process. Knows nothing about processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
FrameSize = Callable[[int, int, int, bool], tuple[int, int]]


def resize_here(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A frame (H, W, 3) at `size` (h, w), as the model would resize it."""
    from .resize import resize  # needs torch, which takes seconds to import

    return resize(pixels, size)


def nothing() -> None:
    """No one listens."""


@dataclass(frozen=True)
class Host:
    """`resize` makes frames (H, W, 3) smaller; `beat` is called for every packet read, as a sign of life.

    `blank`: only times and sizes of frames are wanted, and their pixels may be black. `frame_size` returns the
    (height, width) of the frames kept; None keeps their size. It is called once with the displayed height and width,
    the expected number of frames, and whether the file is a still image.
    """

    resize: Callable[[Pixels, tuple[int, int]], Pixels] = resize_here
    beat: Callable[[], None] = nothing
    blank: bool = False
    frame_size: FrameSize | None = None

    @property
    def local(self) -> bool:
        """Whether the file is read in the process that asked for it."""
        return self.resize is resize_here
