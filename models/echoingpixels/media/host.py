"""What the reader of a file needs from the process that asked for it, which may be another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .clip import Pixels
from .resize import resize

FrameSize = Callable[[int, int, int, bool], tuple[int, int]]
Resizer = Callable[[Pixels, tuple[int, int]], Pixels]


def no_op() -> None:
    """Does nothing."""


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
