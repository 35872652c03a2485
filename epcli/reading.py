"""The process in which a command has its media read, so that no file can take the command along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echoingpixels.media import Worker


@contextmanager
def reading() -> Iterator[Worker]:
    """A worker that starts while the command goes on, and ends with the block."""
    from echoingpixels.media import Worker

    with Worker() as worker:
        worker.start()
        yield worker
