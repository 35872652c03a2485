"""Web servers of the tests' own, each in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer

POLL_S = 0.01  # until a server notices that it shall stop; half a second by default


@contextmanager
def serving(server: HTTPServer) -> Iterator[HTTPServer]:
    """Answer requests inside the block; then stop, and close the port."""
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
