"""The worker process: it reads one file after another for the program that started it, and imports no torch.

It ends with that program, even after a crash: its standard input is never written to, so an event there means that the
other end is closed. The kernel then sends SIGIO, which ends even a process that hangs in a decoder.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
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


def serve(connection_fd: int, buffer_fd: int, limit: int) -> None:
    """Answer requests until the other end is closed; `limit`: bytes of memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the program decides
    end_with_parent()
    buffer = SharedBuffer(buffer_fd, limit)
    connection: Connection[Any, Any] = Connection(connection_fd)
    from ..reader import check_media, stream  # while the program continues

    limit_memory(limit + limit // 4)  # at `limit` the program ends it; to decoders a refusal looks like damage
    with suppress(EOFError, OSError):
        connection.send(None)  # ready
        while True:
            request: Request = connection.recv()
            connection.send(_answer(request, connection, buffer, limit, stream, check_media))


def _answer(
    request: Request,
    connection: Connection[Any, Any],
    buffer: SharedBuffer,
    limit: int,
    stream: Callable[..., Pieces],
    check: Callable[[str], None],
) -> Part | Failed | None:
    """The reply to one request: the last piece of a clip."""

    exchange = threading.Lock()  # the thread that converts frames has them resized while this one decodes

    def call(message: SizeOf | Resize | Part) -> Any:
        connection.send(message)
        return connection.recv()

    def size(height: int, width: int, frames: int, image: bool) -> tuple[int, int]:
        height, width = call(SizeOf(height, width, frames, image))
        return height, width

    def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
        with exchange:
            (place,) = buffer.put([pixels])
            return buffer.take(call(Resize(place, size))).astype(np.uint8, copy=False)

    try:
        if not os.path.isabs(request.path):
            os.chdir(request.folder)
        if request.options is None:
            check(request.path)
            return None
        host = Host(resize, buffer.beat, request.blank, size if request.sized else None)
        for piece in stream(Path(request.path), request.options, host):
            with exchange:
                arrays = buffer.put([piece.frames, piece.times, piece.audio])
                part = Part(arrays, piece.begins, piece.ending, piece.expected)
                if piece.ending is not None:
                    return part
                call(part)
        raise AssertionError("the last piece has the ending")
    except EpError as error:
        return Failed(error)
    except MemoryError:
        return Failed(too_large(request.path, limit), spent=True)
    except Exception as error:
        message = f"{request.path} broke the reader: {type(error).__name__}: {error}."
        return Failed(MediaError(message, "Convert it to MP4, and please report it."), trace=traceback.format_exc())


def end_with_parent() -> None:
    """Have the kernel end this process when the other end of its standard input is closed."""
    import fcntl

    with suppress(OSError):  # where pipes do not support this, the process ends at its next reply
        fcntl.fcntl(sys.stdin, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sys.stdin, fcntl.F_SETFL, fcntl.fcntl(sys.stdin, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([sys.stdin], [], [], 0)[0]:
        os._exit(1)


def limit_memory(limit: int) -> None:
    """Limit the memory of this process (bytes), which only Linux enforces, and disable core dumps."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
