"""The decoding process: reads one file after another for the worker that started it. Knows nothing about torch.

It ends with that worker's process, however that ends: nobody writes to its standard input, so a change there means that
the other end is gone, and the kernel then sends SIGIO, which ends even a process that hangs in a decoder.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import EpError, MediaError
from ..clip import Pieces, Pixels
from ..host import Host
from .protocol import Failed, Part, Request, Resize, SharedBuffer, SizeOf, too_large


def serve(connection_fd: int, shelf_fd: int, limit: int) -> None:
    """Answer requests until the other end is gone; `limit`: bytes of memory to live with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the worker decides
    end_with_parent()
    shelf = SharedBuffer(shelf_fd, limit)
    connection: Connection[Any, Any] = Connection(connection_fd)
    from ..reader import check_media, stream  # while the worker does something else

    limit_memory(limit + limit // 4)  # at `limit` the worker ends it; decoders take a refusal for damage
    with suppress(EOFError, OSError):
        connection.send(None)  # ready
        while True:
            request: Request = connection.recv()
            connection.send(_answer(request, connection, shelf, limit, stream, check_media))


def _answer(
    request: Request,
    connection: Connection[Any, Any],
    shelf: SharedBuffer,
    limit: int,
    stream: Callable[..., Pieces],
    check: Callable[[str], None],
) -> Part | Failed | None:
    """What came of one request: of a clip, its last piece."""

    def ask(question: SizeOf | Resize | Part) -> Any:
        connection.send(question)
        return connection.recv()

    def size(height: int, width: int, frames: int, image: bool) -> tuple[int, int]:
        height, width = ask(SizeOf(height, width, frames, image))
        return height, width

    def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
        (place,) = shelf.put([pixels])
        return shelf.take(ask(Resize(place, size))).astype(np.uint8, copy=False)

    try:
        if not os.path.isabs(request.path):
            os.chdir(request.folder)
        if request.options is None:
            check(request.path)
            return None
        host = Host(resize, shelf.beat, request.blank, size if request.sized else None)
        for piece in stream(Path(request.path), request.options, host):
            arrays = shelf.put([piece.frames, piece.times, piece.audio])
            part = Part(arrays, piece.begins, piece.ending, piece.expected)
            if piece.ending is not None:
                return part
            ask(part)
        raise AssertionError("the last piece has the ending")
    except EpError as error:
        return Failed(error)
    except MemoryError:
        return Failed(too_large(request.path, limit), spent=True)
    except Exception as error:
        what = f"{request.path} broke the reader: {type(error).__name__}: {error}."
        return Failed(MediaError(what, "Convert it to MP4, and please report it."), trace=traceback.format_exc())


def end_with_parent() -> None:
    """Have the kernel end this process when the other end of its standard input is closed."""
    import fcntl

    with suppress(OSError):  # where pipes cannot do this, the process ends when it next answers
        fcntl.fcntl(sys.stdin, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sys.stdin, fcntl.F_SETFL, fcntl.fcntl(sys.stdin, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([sys.stdin], [], [], 0)[0]:
        os._exit(1)


def limit_memory(limit: int) -> None:
    """What the kernel lets this process allocate, in bytes; Linux alone enforces it. And no core dumps."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
