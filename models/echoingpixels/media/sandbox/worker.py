"""Worker: reads files in another process, with limits on time and memory. Imports no decoder."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ...errors import MediaError
from ...options import MediaOptions
from ..clip import Clip, Piece, Pieces, whole
from ..host import FrameSize, Host, no_op, resize
from .process import ISOLATED, Process
from .protocol import Failed, Part, Request, Resize, SizeOf, too_large

START = 300.0  # s until the process is ready: a busy machine may take seconds to import NumPy
PACE = 1 << 14  # bytes/s of a file, at least
TICK = 0.25  # s between checks of the process
DEFAULTS = MediaOptions()
CONVERT = "It may be damaged: try converting it to MP4, or leave it out."


@dataclass(frozen=True)
class Limits:
    """Limits on reading one file.

    `seconds`: the longest time without another packet. Decoding a packet takes milliseconds, and a seek in a file
    without an index some seconds. A whole file may take `seconds` and one more for every 16 KiB, as some never end.
    `bytes`: the memory at which the process is ended (on Linux, where the kernel allows a quarter more at most). The
    same limit applies to the size of a whole clip, and to the audio of one that is read in pieces.
    """

    seconds: float = 60.0
    bytes: int = 4 << 30


class Worker:
    """Reads files in a worker process, one at a time for all threads; in this process where ISOLATED is false.

    `start` starts the process, or else the first file does, and the next file after it was ended.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._end: Callable[[], object] = no_op

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the process without waiting for it. MediaError if none can be started."""
        with self._lock:
            self._start()

    def read(self, path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None) -> Clip:
        """As `read_clip`; MediaError also if a limit is exceeded or the process crashes."""
        return whole(self._limited(path, self.stream(path, options, frame_size=frame_size), frames=True))

    def stream(
        self, path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None
    ) -> Pieces:
        """As `stream_clip`; MediaError also as in `read`.

        The process waits while a piece is used, and other files wait for the last piece. Closing the pieces before the
        last one ends the process.
        """
        if not ISOLATED:
            from ..reader import stream_clip

            return stream_clip(path, options, frame_size=frame_size)
        return self._limited(path, self._ask(str(path), options, frame_size), frames=False)

    def outline(
        self, path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None
    ) -> Pieces:
        """As `stream`, with black frames: their times and sizes are read from the packets where possible."""
        if not ISOLATED:
            from ..reader import stream

            return stream(path, options, Host(blank=True, frame_size=frame_size))
        return self._limited(path, self._ask(str(path), options, frame_size, blank=True), frames=False)

    def check(self, path: str | Path) -> None:
        """As `check_media`; MediaError also as in `read`."""
        if not ISOLATED:
            from ..reader import check_media

            return check_media(path)
        for _ in self._ask(str(path), None):
            pass

    def close(self) -> None:
        """End the process; a file that it reads for another thread fails. The next file starts another process."""
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end_process()

    @property
    def pid(self) -> int | None:
        """The id of the process; None if none runs."""
        process = self._process
        return process.pid if process is not None and process.alive else None

    def _start(self) -> None:
        if not ISOLATED or self.pid is not None:
            return
        self._end_process()
        try:
            self._process = Process(self.limits.bytes)
        except OSError as error:
            message = f"The process that reads files could not be started: {(error.strerror or str(error)).lower()}."
            raise MediaError(message, "Close other programs, and try again.") from error
        self._end = weakref.finalize(self, self._process.close)  # at the latest with this object, or the program

    def _end_process(self) -> None:
        self._end()
        self._process, self._end = None, no_op

    def _limited(self, path: str | Path, pieces: Pieces, frames: bool) -> Pieces:
        """The same pieces, up to the limit on their total size."""
        size = 0
        with closing(pieces):
            for piece in pieces:
                size += piece.audio.nbytes + (piece.frames.nbytes if frames else 0)
                if size > self.limits.bytes:
                    raise too_large(str(path), self.limits.bytes)
                yield piece

    def _ask(
        self, path: str, options: MediaOptions | None, frame_size: FrameSize | None = None, blank: bool = False
    ) -> Pieces:
        with self._lock:
            self._start()
            process = self._process
            assert process is not None
            try:
                self._wait_until_ready(process)
                failed = yield from self._talk(process, path, options, frame_size, blank)
                if process.memory() > self.limits.bytes // 2:  # memory that the next file would lack
                    self._end_process()
            except BaseException:  # after any error the two processes are out of step
                self._end_process()
                raise
        if failed is not None:
            if failed.trace:
                failed.error.add_note(failed.trace)
            raise failed.error

    def _wait_until_ready(self, process: Process) -> None:
        """Wait until the process is ready."""
        if process.ready:
            return
        with suppress(EOFError, OSError):
            process.ready = process.connection.poll(START) and process.connection.recv() is None
        if not process.ready:
            message = f"The process that reads files did not start ({process.end()})."
            raise MediaError(message, "Try again; if that does not help, install echoingpixels again.")

    def _talk(
        self, process: Process, path: str, options: MediaOptions | None, frame_size: FrameSize | None, blank: bool
    ) -> Generator[Piece, None, Failed | None]:
        """Have one file read: answer the messages of the process and yield its pieces."""
        connection, buffer = process.connection, process.buffer
        timer = _Timer(process, path, self.limits)
        buffer.clear()
        try:
            connection.send(Request(path, _folder(), options, frame_size is not None, blank))
            while True:
                while not connection.poll(TICK):
                    timer.tick()
                message = connection.recv()
                timer.tick(message=True)
                match message:
                    case SizeOf(height, width, frames, image):
                        assert frame_size is not None
                        connection.send(frame_size(height, width, frames, image))
                    case Resize(place, size):
                        connection.send(*buffer.put([resize(buffer.take(place), size)]))
                    case Part(places, begins, ending, expected):
                        pixels, times, audio = map(buffer.take, places)
                        yield Piece(pixels, times, audio, begins, ending, expected)
                        del pixels, times, audio
                        if ending is not None:
                            return None
                        connection.send(None)
                    case Failed(error, spent=True):
                        raise error
                    case Failed():
                        return message
                    case _:
                        return None
        except (EOFError, OSError):
            why = process.end()
            more = ", as the system does when memory runs out" if why == "SIGKILL" else ""
            raise MediaError(f"{path} ended the process that read it ({why}{more}).", CONVERT) from None


class _Timer:
    """The time limits of a file, counted in small steps: a program that was suspended does not wake up past a limit."""

    def __init__(self, process: Process, path: str, limits: Limits) -> None:
        self._process, self._path, self._limits = process, path, limits
        self._longest = limits.seconds  # in all, s
        with suppress(OSError, ValueError):  # such a file will be refused
            self._longest += os.stat(path).st_size / PACE
        self._beats = b""
        self._all = self._quiet = 0.0  # s
        self._last = time.monotonic()

    def tick(self, message: bool = False) -> None:
        """Count the time since the last call; `message`: the process has sent one. MediaError past a limit."""
        now, beats = time.monotonic(), self._process.buffer.beats()
        passed, self._last = min(now - self._last, 2 * TICK), now
        self._all += passed
        self._quiet = 0.0 if message or beats != self._beats else self._quiet + passed
        self._beats = beats
        if self._process.memory() > self._limits.bytes:
            raise too_large(self._path, self._limits.bytes)
        stopped = f"Reading {self._path} was stopped: "
        if self._quiet > self._limits.seconds:
            raise MediaError(f"{stopped}no progress for {self._limits.seconds:g} s.", CONVERT)
        if self._all > self._longest:
            raise MediaError(f"{stopped}not finished after {self._all:.0f} s.", CONVERT)


def _folder() -> str:
    """The folder of relative paths."""
    try:
        return os.getcwd()
    except OSError:  # it has been deleted
        return os.sep
