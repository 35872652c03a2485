"""Reading files in another process, which can be ended. Knows nothing about decoding."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from ..clip import Clip
from ..errors import EpError, MediaError
from ..options import MediaOptions

DEFAULTS = MediaOptions()


@dataclass(frozen=True)
class Limits:
    """What reading one file may take."""

    seconds: float = 600.0
    bytes: int = 4 << 30  # not looked at yet


class Worker:
    """Reads files in a process of its own, one at a time; it is started by the first file, and again after it ended."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, path: str | Path, options: MediaOptions = DEFAULTS) -> Clip:
        """What `read_clip` gives and raises; MediaError also where a limit was passed or the process ended."""
        connection = self._started()
        try:
            connection.send((str(path), options))
            if not connection.poll(self.limits.seconds):
                raise MediaError(f"Reading {path} took more than {self.limits.seconds:g} s.", "Convert it to MP4.")
            answer: Clip | EpError = connection.recv()
        except (EOFError, OSError):
            self.close()
            raise MediaError(f"{path} ended the process that read it.", "Try converting it to MP4.") from None
        except MediaError:
            self.close()
            raise
        if isinstance(answer, Clip):
            return answer
        raise answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _started(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, there = context.Pipe()
            self._process = context.Process(target=_serve, args=(there,), daemon=True)
            self._process.start()
            there.close()
        return self._connection


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked decides when to stop
    from .entry import read_clip

    while True:
        try:
            path, options = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer: Clip | EpError = read_clip(path, options)
        except EpError as error:
            answer = type(error)(error.message, error.hint)
        except Exception as error:
            answer = MediaError(f"{path} cannot be decoded: {type(error).__name__}: {error}.", "Please report it.")
        connection.send(answer)
