"""One decoding process: started, spoken to, ended. Knows nothing about limits on time, nor what is said.

A fresh interpreter, as a forked one would share torch's threads; not multiprocessing's, which would run the program's
main module again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from .protocol import SharedBuffer

try:
    import fcntl  # noqa: F401
    import resource  # noqa: F401
except ImportError:  # Windows has neither, nor file descriptors that a child inherits
    ISOLATED = False
else:
    ISOLATED = True
BOOT = """
import sys
*sys.path, connection, shelf, limit = sys.argv[1:]
from echoingpixels.media.sandbox.child import serve
serve(int(connection), int(shelf), int(limit))
"""
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0  # bytes
LAST_WORDS = 1.0  # s that a process has to end by itself after it has closed its side


class Process:
    """A child that reads files within `limit` bytes of memory. What it prints goes nowhere."""

    def __init__(self, limit: int) -> None:
        self.shelf = SharedBuffer.make(limit)
        self.connection: Connection[Any, Any]
        self.connection, theirs = Pipe()
        fds = (theirs.fileno(), self.shelf.fd)
        paths = [os.path.abspath(entry) for entry in sys.path]
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT, *paths, *map(str, (*fds, limit))],
                stdin=subprocess.PIPE,  # never written to: its end tells the child of ours
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=fds,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads would only take time to start
            )
        except BaseException:
            self.connection.close()
            self.shelf.close()
            raise
        finally:
            theirs.close()
        self.pid = self._popen.pid
        self.ready = False  # whether it has said so

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def memory(self) -> int:
        """Bytes that it has allocated by now; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[5]
        except (OSError, IndexError):  # not Linux, or just ended
            return 0
        return int(pages) * PAGE

    def kill(self) -> None:
        """Has it end at once."""
        self._popen.kill()

    def end(self) -> str:
        """How it ended, or was ended now: such as `SIGSEGV` or `exit code 1`."""
        try:
            code = self._popen.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._popen.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Ends it at once, and forgets what was shared."""
        self.kill()
        self._popen.wait()
        if self._popen.stdin:
            self._popen.stdin.close()
        self.connection.close()
        self.shelf.close()
