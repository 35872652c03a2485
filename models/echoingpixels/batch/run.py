"""A batch on this machine: worker processes decode clips while the model answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..model import EchoingPixels
from .ahead import Ahead
from .answering import Answerer
from .job import Job, Task
from .journal import Journal
from .opening import Opened
from .result import Result
from .tally import Tally


def never() -> bool:
    """Do not stop early."""
    return False


def nothing(_: object) -> None:
    """Report no progress."""


def run(
    job: Job,
    tasks: Sequence[Task],
    journal: Journal,
    load: Callable[[], EchoingPixels],
    workers: int = 1,
    on_rows: Callable[[Tally], None] = nothing,
    on_results: Callable[[list[Result]], object] = nothing,
    stop: Callable[[], bool] = never,
) -> Tally:
    """Answer every row that the journal lacks, write each batch of rows, and return the totals.

    After every batch `on_results` gets the written rows and `on_rows` the totals so far. When `stop` is true, the
    current batch is finished and no other is started. The error of a clip is written in its rows. DataError if rows
    cannot be written.
    """
    tally = Tally(sum(len(task.rows) for task in tasks), workers)
    with Ahead(job, tasks, journal.done, workers, stop) as ahead:
        answerer = Answerer(load, job)
        if not journal.done:  # while the first clips are decoded
            answerer.model  # noqa: B018
        tally.begin()
        ahead.begin()
        for results in answerer(_counted(ahead, tally, on_rows)):
            journal.write(results)
            on_results(results)
            tally.add(results)
            tally.reading = ahead.busy
            on_rows(tally)
        tally.end()
    return tally


def _counted(opened: Ahead, tally: Tally, on_rows: Callable[[Tally], None]) -> Iterator[Opened | None]:
    for one in opened:
        if one is not None and one.skipped:
            tally.skipped += one.skipped
            on_rows(tally)
        yield one
