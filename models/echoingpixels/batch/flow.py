"""The pieces of one long clip, read in one thread and encoded in another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import closing

from ..media.clip import Piece, Pieces

TICK = 0.25  # s between two checks of the stop conditions
WAITING = 2  # pieces in the queue


class Flow:
    """A short queue of pieces. An error of the reading thread is raised where the pieces are taken."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Piece | BaseException | None] = queue.Queue(WAITING)
        self._left = threading.Event()  # set when the taker has stopped

    def fill(self, pieces: Pieces, stop: Callable[[], bool]) -> None:
        """Read all pieces, until the taker stops or `stop` is true."""
        with closing(pieces):
            try:
                for piece in pieces:
                    if not self._put(piece, stop):
                        return
                self._put(None, stop)
            except BaseException as error:
                self._put(error, stop)

    def pieces(self) -> Pieces:
        """Take the pieces."""
        try:
            while True:
                try:
                    one = self._queue.get(timeout=TICK)  # in steps, so that Ctrl-C is handled
                except queue.Empty:
                    continue
                if one is None:
                    return
                if isinstance(one, BaseException):
                    raise one
                yield one
        finally:
            self._left.set()

    def _put(self, one: Piece | BaseException | None, stop: Callable[[], bool]) -> bool:
        while not self._left.is_set() and not stop():
            try:
                self._queue.put(one, timeout=TICK)
                return True
            except queue.Full:
                continue
        return False
