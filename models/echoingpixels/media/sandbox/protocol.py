"""The messages between a program and its worker process, and the shared buffer for arrays."""

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
HEAD = 4096  # bytes before the arrays; the first eight count the heartbeats
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Request:
    """To the worker: read `path`, which may be relative to `folder`. `options` None: only check that it is media.

    `sized`: ask the program for the size of the frames. `blank`: frames may be black.
    """

    path: str
    folder: str
    options: MediaOptions | None
    sized: bool
    blank: bool = False


@dataclass(frozen=True)
class Place:
    """The place of an array in the shared buffer."""

    shape: tuple[int, ...]
    dtype: str
    offset: int  # bytes


@dataclass(frozen=True)
class SizeOf:
    """From the worker: which size to keep for that many frames, or a still image, displayed at (height, width)?"""

    height: int
    width: int
    frames: int
    image: bool


@dataclass(frozen=True)
class Resize:
    """From the worker: resize a frame to another (height, width); the reply is in the same buffer."""

    frame: Place
    size: tuple[int, int]


@dataclass(frozen=True)
class Part:
    """From the worker: a piece of a clip (frames, times, audio). Without an ending, it waits for a reply."""

    arrays: tuple[Place, ...]
    begins: bool
    ending: Ending | None
    expected: int


@dataclass(frozen=True)
class Failed:
    """From the worker: the file failed. `spent`: the process must end; `trace`: the place of an internal error."""

    error: EpError
    spent: bool = False
    trace: str = ""


def too_large(path: str, limit: int) -> MediaError:
    """The error where `limit` bytes of memory are not enough."""
    message = f"Reading {path} was stopped: it takes more than {limit / GIB:.3g} GiB of memory."
    return MediaError(message, "It may be damaged; else scale it down, or read a part of it with --start and --end.")


class SharedBuffer:
    """An anonymous file that two processes share: one writes arrays, the other reads copies. At most `limit` bytes.

    It is not mapped to memory, so that a file truncated by the other side is an error here and not a signal.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self._limit = limit
        self._beats = 0

    @classmethod
    def make(cls, limit: int) -> SharedBuffer:
        """A new buffer: in memory on Linux, else a deleted temporary file."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("ep-frames"), limit)
        with tempfile.TemporaryFile() as file:
            return cls(os.dup(file.fileno()), limit)

    def put(self, arrays: Sequence[Array]) -> tuple[Place, ...]:
        """Write arrays one after the other, over earlier ones; MemoryError past the limit."""
        places, offset = [], HEAD
        for array in arrays:
            array = np.ascontiguousarray(array)
            if offset + array.nbytes > HEAD + self._limit:
                raise MemoryError(f"{array.nbytes} bytes of frames or sound")
            places.append(Place(array.shape, array.dtype.str, offset))
            offset = _all(os.pwritev, self.fd, array, offset)
        return tuple(places)

    def take(self, place: Place) -> Array:
        """A copy of the array at `place`; ValueError if the buffer is shorter."""
        size = int(np.prod(place.shape, dtype=object)) * np.dtype(place.dtype).itemsize
        if not 0 <= place.offset <= place.offset + size <= os.fstat(self.fd).st_size:
            raise ValueError(f"{place} is outside the shared buffer")
        array = np.empty(place.shape, place.dtype)
        _all(os.preadv, self.fd, array, place.offset)
        return array

    def clear(self) -> None:
        """Free the memory of the arrays."""
        os.ftruncate(self.fd, HEAD)

    def beat(self) -> None:
        """Count a heartbeat."""
        self._beats += 1
        os.pwrite(self.fd, struct.pack("Q", self._beats), 0)

    def beats(self) -> bytes:
        """The count of heartbeats, as bytes."""
        return os.pread(self.fd, 8, 0)

    def close(self) -> None:
        """Close this side; the system frees the file when both sides are closed."""
        os.close(self.fd)


def _all(move: Any, fd: int, array: Array, offset: int) -> int:
    """Read or write all bytes of an array, in one call or several; returns the offset after them."""
    left = memoryview(array.reshape(-1).view(np.uint8).data)
    while len(left):
        done = move(fd, [left], offset)
        if not done:
            raise ValueError("the shared buffer is cut short")
        left, offset = left[done:], offset + done
    return offset
