"""Printing: answers and data go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from echoingpixels.generation.answer import Answer, Chunk

EVERY_S = 5.0  # between plain progress lines

Progress = Callable[[int, int], None]  # done, total


def stderr() -> Console:
    """Rich output on the current sys.stderr."""
    return Console(stderr=True, highlight=False)


def out(text: str, end: str = "\n") -> None:
    """Print part of an answer or of data, and flush; on a terminal without control characters."""
    if sys.stdout.isatty():
        text = "".join(c for c in text if c.isprintable() or c in "\n\t")
    sys.stdout.write(text + end)
    sys.stdout.flush()


def stream(chunks: Iterable[Chunk]) -> Answer:
    """Print an answer as it comes, and return it."""
    answer: Answer | None = None
    for chunk in chunks:
        out(chunk.text, end="")
        answer = chunk.answer
    out("")
    assert answer is not None, "the last chunk carries the answer"
    return answer


def out_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    out(json.dumps(value, ensure_ascii=False))


def say(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def summary(text: str) -> None:
    """Print a line of statistics to stderr, dimmed on a terminal."""
    if sys.stderr.isatty():
        stderr().print(Text(text, style="dim"), soft_wrap=True)
    else:
        say(text)


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print labelled lines to stderr: a small table on a terminal, else plain text."""
    if not rows:
        return
    if not sys.stderr.isatty():
        for label, value in rows:
            say(f"{label}: {value}")
        return
    table = Table.grid(padding=(0, 2))
    for label, value in rows:
        table.add_row(Text(label, style="dim"), Text(value))
    stderr().print(table)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout: ruled on a terminal, else aligned text."""
    if sys.stdout.isatty():
        table = Table(*header)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(table)
        return
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        out("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a status on a terminal while the block runs."""
    if sys.stderr.isatty():
        with stderr().status(Text(what)):
            yield
    else:
        yield


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A bar on a terminal, else a line every few seconds and one at the end."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        layout = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Bar(*layout, console=stderr()) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            say(f"{what} {done} of {total}")

    yield line
