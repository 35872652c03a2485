"""Reading files in another process, which can be ended: how long it may take and how much memory.

Knows nothing about decoding, and imports none of it.
"""

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
from ..host import FrameSize, Host, no_op
from ..resize import resize
from .process import ISOLATED, Process
from .protocol import Failed, Part, Request, Resize, SizeOf, too_large

START = 300.0  # s until the process is ready: a busy machine may take seconds to import NumPy
PACE = 1 << 14  # bytes of a file a second, at the very least
TICK = 0.25  # s between looks at the process
DEFAULTS = MediaOptions()
CONVERT = "It may be damaged: try converting it to MP4, or leave it out."


@dataclass(frozen=True)
class Limits:
    """What reading one file may take.

    `seconds`: without another packet read, before the process counts as hung. Decoding one takes milliseconds, and
    searching a file without an index some seconds. A long film may take longer as long as it gets on: a file has that
    many seconds and one more for every 16 KiB of it, against those that never end. `bytes`: of memory, beyond which
    the process is ended (on Linux; the kernel gives it a quarter more at most), and as many of a whole clip, or of the
    sound of one that comes in pieces.
    """

    seconds: float = 60.0
    bytes: int = 4 << 30


class Worker:
    """Reads files in a process of its own, one at a time whichever thread asks; in this one where ISOLATED is false.

    The process is started by `start`, or else by the first file, and again after it was ended.
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
        """Begins to start the process and returns at once. MediaError where none can be started."""
        with self._lock:
            self._start()

    def read(self, path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None) -> Clip:
        """What `read_clip` gives and raises; MediaError also where a limit was passed or the process crashed."""
        return whole(self._limited(path, self.stream(path, options, frame_size=frame_size), frames=True))

    def stream(
        self, path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None
    ) -> Pieces:
        """What `stream_clip` gives and raises; MediaError also as from `read`.

        The process waits for whoever takes the pieces, and other files for the last of them; pieces that are closed
        before that end the process.
        """
        if not ISOLATED:
            from ..reader import stream_clip

            return stream_clip(path, options, frame_size=frame_size)
        return self._limited(path, self._ask(str(path), options, frame_size), frames=False)

    def outline(
        self, path: str | Path, options: MediaOptions = DEFAULTS, *, frame_size: FrameSize | None = None
    ) -> Pieces:
        """As `stream`, but with black frames: their times and sizes come from the file's packets where these tell."""
        if not ISOLATED:
            from ..reader import stream

            return stream(path, options, Host(blank=True, frame_size=frame_size))
        return self._limited(path, self._ask(str(path), options, frame_size, blank=True), frames=False)

    def check(self, path: str | Path) -> None:
        """What `check_media` raises; MediaError also as from `read`."""
        if not ISOLATED:
            from ..reader import check_media

            return check_media(path)
        for _ in self._ask(str(path), None):
            pass

    def close(self) -> None:
        """Ends the process; a file that it reads for another thread fails. The next one starts another process."""
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._forget()

    @property
    def pid(self) -> int | None:
        """The process's number; None where there is no process now."""
        process = self._process
        return process.pid if process is not None and process.alive else None

    def _start(self) -> None:
        if not ISOLATED or self.pid is not None:
            return
        self._forget()
        try:
            self._process = Process(self.limits.bytes)
        except OSError as error:
            what = f"The process that reads files could not be started: {(error.strerror or str(error)).lower()}."
            raise MediaError(what, "Close other programs, and try again.") from error
        self._end = weakref.finalize(self, self._process.close)  # with this object at the latest, or the program

    def _forget(self) -> None:
        self._end()
        self._process, self._end = None, no_op

    def _limited(self, path: str | Path, pieces: Pieces, frames: bool) -> Pieces:
        """The same, up to the limit of what is handed over."""
        taken = 0
        with closing(pieces):
            for piece in pieces:
                taken += piece.audio.nbytes + (piece.frames.nbytes if frames else 0)
                if taken > self.limits.bytes:
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
                self._greet(process)
                failed = yield from self._talk(process, path, options, frame_size, blank)
                if process.memory() > self.limits.bytes // 2:  # what it has not given back, the next file would lack
                    self._forget()
            except BaseException:  # whatever it was, the two are out of step
                self._forget()
                raise
        if failed is not None:
            if failed.trace:
                failed.error.add_note(failed.trace)
            raise failed.error

    def _greet(self, process: Process) -> None:
        """Waits until the process is ready."""
        if process.ready:
            return
        with suppress(EOFError, OSError):
            process.ready = process.connection.poll(START) and process.connection.recv() is None
        if not process.ready:
            what = f"The process that reads files did not start ({process.end()})."
            raise MediaError(what, "Try again; if that does not help, install echoingpixels again.")

    def _talk(
        self, process: Process, path: str, options: MediaOptions | None, frame_size: FrameSize | None, blank: bool
    ) -> Generator[Piece, None, Failed | None]:
        """Has one file read: answers what the process asks, and gives its pieces as they come."""
        connection, shelf = process.connection, process.shelf
        patience = _Patience(process, path, self.limits)
        shelf.clear()
        try:
            connection.send(Request(path, _folder(), options, frame_size is not None, blank))
            while True:
                while not connection.poll(TICK):
                    patience.tick()
                message = connection.recv()
                patience.tick(heard=True)
                match message:
                    case SizeOf(height, width, frames, image):
                        assert frame_size is not None
                        connection.send(frame_size(height, width, frames, image))
                    case Resize(place, size):
                        connection.send(*shelf.put([resize(shelf.take(place), size)]))
                    case Part(places, begins, ending, expected):
                        pixels, times, audio = map(shelf.take, places)
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


class _Patience:
    """How long a file may still take, in small steps: a program that was stopped does not wake up past a limit."""

    def __init__(self, process: Process, path: str, limits: Limits) -> None:
        self._process, self._path, self._limits = process, path, limits
        self._most = limits.seconds  # in all, s
        with suppress(OSError, ValueError):  # such a file will be refused
            self._most += os.stat(path).st_size / PACE
        self._beats = b""
        self._all = self._quiet = 0.0  # s
        self._last = time.monotonic()

    def tick(self, heard: bool = False) -> None:
        """Some time has passed; `heard` from the process or not. MediaError past a limit."""
        now, beats = time.monotonic(), self._process.shelf.beats()
        passed, self._last = min(now - self._last, 2 * TICK), now
        self._all += passed
        self._quiet = 0.0 if heard or beats != self._beats else self._quiet + passed
        self._beats = beats
        if self._process.memory() > self._limits.bytes:
            raise too_large(self._path, self._limits.bytes)
        gave_up = f"Reading {self._path} was given up: "
        if self._quiet > self._limits.seconds:
            raise MediaError(f"{gave_up}nothing more came of it for {self._limits.seconds:g} s.", CONVERT)
        if self._all > self._most:
            raise MediaError(f"{gave_up}it had not ended after {self._all:.0f} s.", CONVERT)


def _folder() -> str:
    """Where relative paths begin."""
    try:
        return os.getcwd()
    except OSError:  # it has been deleted
        return os.sep
