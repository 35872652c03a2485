"""The pieces of one long clip, read in one thread and looked at in another. Knows nothing about files or models."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import closing

from ..media.clip import Piece, Pieces

TICK = 0.25  # s between looks at whether to stop
WAITING = 2  # pieces that may wait to be looked at


class Flow:
    """Hands pieces on, a few ahead; what goes wrong in reading is raised where they are taken."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Piece | BaseException | None] = queue.Queue(WAITING)
        self._left = threading.Event()  # nobody takes any more

    def fill(self, pieces: Pieces, stop: Callable[[], bool]) -> None:
        """Read all pieces, unless nobody wants them or `stop` says so."""
        with closing(pieces):
            try:
                for piece in pieces:
                    if not self._put(piece, stop):
                        return
                self._put(None, stop)
            except BaseException as error:
                self._put(error, stop)

    def pieces(self) -> Pieces:
        """Take them."""
        try:
            while True:
                try:
                    one = self._queue.get(timeout=TICK)  # in steps, so that Ctrl-C is heard
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
