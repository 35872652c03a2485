"""What passes between a worker and its decoding process: small messages, and arrays through a file in memory.

Knows nothing about decoding.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import EpError, MediaError
from ...options import MediaOptions
from ..clip import Ending

GIB = 1 << 30
HEAD = 4096  # bytes before the arrays; the first eight count the child's signs of life
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Request:
    """Read `path`, which may be relative to `folder`. `options` None: only check that it is media.

    `sized`: the worker says how large frames are kept. `blank`: frames may be black.
    """

    path: str
    folder: str
    options: MediaOptions | None
    sized: bool
    blank: bool = False


@dataclass(frozen=True)
class Place:
    """Where an array is in the shared file."""

    shape: tuple[int, ...]
    dtype: str
    offset: int  # bytes


@dataclass(frozen=True)
class SizeOf:
    """The child asks how large to keep that many frames, or a still image, that are shown at (height, width)."""

    height: int
    width: int
    frames: int
    image: bool


@dataclass(frozen=True)
class Resize:
    """The child asks for a frame at another (height, width); it comes back in the same file."""

    frame: Place
    size: tuple[int, int]


@dataclass(frozen=True)
class Part:
    """The child has read a piece of a clip: frames, times and audio. Without an ending, it waits until it may go on."""

    arrays: tuple[Place, ...]
    begins: bool
    ending: Ending | None
    expected: int


@dataclass(frozen=True)
class Failed:
    """The child could not. `spent`: nor can it read on; `trace`: where, if it was our own mistake."""

    error: EpError
    spent: bool = False
    trace: str = ""


def too_large(path: str, limit: int) -> MediaError:
    """What to say when `limit` bytes of memory are not enough."""
    seen = f"Reading {path} was given up: it takes more than {limit / GIB:.3g} GiB of memory."
    return MediaError(seen, "It may be damaged; else scale it down, or read a part of it with --start and --end.")


class SharedBuffer:
    """A nameless file that two processes share: one puts arrays there, the other takes copies. At most `limit` bytes.

    Read and written rather than mapped, so that a file cut short by the other side is an error here and no signal.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self._limit = limit
        self._beats = 0

    @classmethod
    def make(cls, limit: int) -> SharedBuffer:
        """A new one: in memory on Linux, else a deleted temporary file."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("ep-frames"), limit)
        with tempfile.TemporaryFile() as file:
            return cls(os.dup(file.fileno()), limit)

    def put(self, arrays: Sequence[Array]) -> tuple[Place, ...]:
        """Write arrays side by side, over what was there; MemoryError past the limit."""
        places, offset = [], HEAD
        for array in arrays:
            array = np.ascontiguousarray(array)
            if offset + array.nbytes > HEAD + self._limit:
                raise MemoryError(f"{array.nbytes} bytes of frames or sound")
            places.append(Place(array.shape, array.dtype.str, offset))
            offset = _all(os.pwritev, self.fd, array, offset)
        return tuple(places)

    def take(self, place: Place) -> Array:
        """A copy of the array at `place`; ValueError if it is not all there."""
        size = int(np.prod(place.shape, dtype=object)) * np.dtype(place.dtype).itemsize
        if not 0 <= place.offset <= place.offset + size <= os.fstat(self.fd).st_size:
            raise ValueError(f"{place} is outside the shared file")
        array = np.empty(place.shape, place.dtype)
        _all(os.preadv, self.fd, array, place.offset)
        return array

    def clear(self) -> None:
        """Give the memory back."""
        os.ftruncate(self.fd, HEAD)

    def beat(self) -> None:
        """A sign of life."""
        self._beats += 1
        os.pwrite(self.fd, struct.pack("Q", self._beats), 0)

    def beats(self) -> bytes:
        """Other bytes than before when there was a sign of life in between."""
        return os.pread(self.fd, 8, 0)

    def close(self) -> None:
        """The file is gone once both sides have closed it."""
        os.close(self.fd)


def _all(move: Any, fd: int, array: Array, offset: int) -> int:
    """Move all bytes of an array, which the system may do in pieces; returns the offset after them."""
    left = memoryview(array.reshape(-1).view(np.uint8).data)
    while len(left):
        done = move(fd, [left], offset)
        if not done:
            raise ValueError("the shared file is cut short")
        left, offset = left[done:], offset + done
    return offset
