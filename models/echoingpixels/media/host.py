"""What reading a file leaves to whoever asked for it, who may be in another process. Knows nothing about processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def resize_here(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A frame (H, W, 3) at `size` (h, w), as the model would resize it."""
    from .resize import resize  # needs torch, which takes seconds to import

    return resize(pixels, size)


def nothing() -> None:
    """No one listens."""


@dataclass(frozen=True)
class Host:
    """`resize` makes frames (H, W, 3) smaller; `beat` is called for every packet read, as a sign of life.

    `blank`: only times and sizes of frames are wanted, and their pixels may be black.
    """

    resize: Callable[[Pixels, tuple[int, int]], Pixels] = resize_here
    beat: Callable[[], None] = nothing
    blank: bool = False


HERE, BLANK = Host(), Host(blank=True)
