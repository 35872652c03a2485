"""Start and end of one worker process.

It is a new interpreter, as a forked one would share torch's threads; multiprocessing would run the program's main
module again.
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
*sys.path, connection, buffer, limit = sys.argv[1:]
from echoingpixels.media.sandbox.child import serve
serve(int(connection), int(buffer), int(limit))
"""
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0  # bytes
EXIT_TIME = 1.0  # s for a process to end by itself after it has closed its side


class Process:
    """A child process that reads files within `limit` bytes of memory. Its output is discarded."""

    def __init__(self, limit: int) -> None:
        self.buffer = SharedBuffer.make(limit)
        self.connection: Connection[Any, Any]
        self.connection, theirs = Pipe()
        fds = (theirs.fileno(), self.buffer.fd)
        paths = [os.path.abspath(entry) for entry in sys.path]
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT, *paths, *map(str, (*fds, limit))],
                stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=fds,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads would only delay the start
            )
        except BaseException:
            self.connection.close()
            self.buffer.close()
            raise
        finally:
            theirs.close()
        self.pid = self._popen.pid
        self.ready = False  # whether it has reported that it is ready

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._popen.poll() is None

    def memory(self) -> int:
        """Bytes allocated by the process; 0 where the system does not report it."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[5]
        except (OSError, IndexError):  # not Linux, or the process has just ended
            return 0
        return int(pages) * PAGE

    def kill(self) -> None:
        """End the process at once."""
        self._popen.kill()

    def end(self) -> str:
        """End the process if it still runs; how it ended, such as `SIGSEGV` or `exit code 1`."""
        try:
            code = self._popen.wait(EXIT_TIME)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._popen.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process at once, and free the connection and the shared buffer."""
        self.kill()
        self._popen.wait()
        if self._popen.stdin:
            self._popen.stdin.close()
        self.connection.close()
        self.buffer.close()
