"""A program at a pseudo-terminal: what a user types, and what they see."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTROL = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])|\r")


class Terminal:
    """A Python program at its own terminal of 200 columns."""

    def __init__(self, *arguments: str, cache: Path) -> None:
        self.own, theirs = pty.openpty()
        names = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")
        here = {name: os.environ[name] for name in names if name in os.environ}
        folders = os.pathsep.join([str(ROOT / "models"), str(ROOT)])
        more = {"TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50", "XDG_CACHE_HOME": str(cache)}
        self.program = subprocess.Popen(
            [sys.executable, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**here, **more, "PYTHONPATH": folders, "OMP_NUM_THREADS": "1"}, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.seen, self.read = "", 0

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.own, text.encode())

    def expect(self, wanted: str, seconds: float = 60.0) -> str:
        """Wait until a pattern appears after what was expected before; all of the text up to its end."""
        end = time.monotonic() + seconds
        while True:
            found = re.compile(wanted).search(self.seen, self.read)
            if found:
                text, self.read = self.seen[self.read : found.end()], found.end()
                return text
            left = end - time.monotonic()
            assert left > 0, f"no {wanted!r} in {self.seen[self.read :]!r}"
            if select.select([self.own], [], [], left)[0]:
                with suppress(OSError):  # the program has ended
                    piece = os.read(self.own, 65_536)
                    if b"\x1b[6n" in piece:  # it asks where the cursor is
                        self.type("\x1b[1;1R")
                    self.seen += CONTROL.sub("", piece.decode(errors="replace"))
                    continue
                time.sleep(0.05)

    def leave(self, keys: str, seconds: float = 60.0) -> int:
        """Press keys that end the program, and give its exit code."""
        self.type(keys)
        end = time.monotonic() + seconds
        while self.program.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.seen[self.read :]!r}"
            if select.select([self.own], [], [], 0.05)[0]:
                with suppress(OSError):
                    self.seen += CONTROL.sub("", os.read(self.own, 65_536).decode(errors="replace"))
        return self.program.returncode

    def close(self) -> None:
        """End the program, if it still runs."""
        if self.program.poll() is None:
            self.program.kill()
        self.program.wait()
        os.close(self.own)


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C is a signal."""
    import fcntl
    import signal
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
