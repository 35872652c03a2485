"""What pretended CUDA records: each event with its kind and where in this project it came from."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PROJECT = Path(__file__).parents[2]
Kind = Literal["sync", "upload", "async upload", "attention"]


@dataclass(frozen=True)
class Event:
    """Something the host waited for (`sync`, and `upload` from pageable memory), or an attention call."""

    kind: Kind
    what: str
    file: str  # of this project, from its root
    line: int
    function: str
    via: str  # transformers' function in between, or nothing

    @property
    def place(self) -> str:
        """File, function and transformers' function: as lines, but unchanged by edits elsewhere in the file."""
        return f"{self.file.removeprefix('models/echoingpixels/')}:{self.function}" + (
            f" via {self.via}" if self.via else ""
        )

    def __str__(self) -> str:
        return f"{self.kind}: {self.what} at {self.file}:{self.line} ({self.function}) {self.via}"


@dataclass
class Record:
    """Events in order of time."""

    events: list[Event] = field(default_factory=list)
    warns: bool = False  # whether a wait is also a warning, as CUDA's in its debug mode

    def count(self, *kinds: Kind) -> Counter[str]:
        """Events of these kinds by place."""
        return Counter(event.place for event in self.events if event.kind in kinds)

    def clear(self) -> None:
        """Forget all events."""
        self.events.clear()

    def add(self, kind: Kind, what: str) -> None:
        """Add an event at the innermost frame of this project that is no test."""
        frame, via = sys._getframe(1), ""
        while frame is not None:
            file = frame.f_code.co_filename
            own = file.startswith(f"{PROJECT}/") and "/site-packages/" not in file
            if own and not file.startswith(f"{PROJECT}/tests/support"):
                name = file.removeprefix(f"{PROJECT}/")
                self.events.append(Event(kind, what, name, frame.f_lineno, frame.f_code.co_name, via))
                if self.warns and kind in ("sync", "upload"):
                    warnings.warn_explicit("called a synchronizing CUDA operation", UserWarning, file, frame.f_lineno)
                return
            if "/transformers/" in file and not via:
                via = frame.f_code.co_name
            frame = frame.f_back  # type: ignore[assignment]
        self.events.append(Event(kind, what, "?", 0, "?", via))
