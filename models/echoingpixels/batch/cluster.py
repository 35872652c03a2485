"""A batch on Ray Data: any number of readers and models, on this machine or a cluster.

This process writes all rows into one journal. Ray restarts a worker that dies and repeats its clips, whose rows were
not returned yet.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import DataError, EpError
from .answering import Answerer
from .job import Job, Task
from .journal import Done, Journal
from .opening import UNREAD, Opener, mark_of
from .result import Result
from .run import never, nothing
from .tally import READING, Tally

CLIPS = 4  # in one block: passed to a model at once, and repeated when its worker dies
MARKS_AT_ONCE = 16  # files whose marks are read in parallel


def run_ray(
    job: Job,
    tasks: Sequence[Task],
    journal: Journal,
    workers: int = 1,
    on_rows: Callable[[Tally], None] = nothing,
    on_results: Callable[[list[Result]], object] = nothing,
    stop: Callable[[], bool] = never,
    address: str | None = None,
) -> Tally:
    """As `run`, on Ray: at most `workers` readers, and a model for each GPU (without GPUs, for each worker).

    `address`: of a cluster; None starts one on this machine. DataError if Ray is missing or cannot be reached.
    """
    tally = Tally(sum(len(task.rows) for task in tasks), workers)
    left = _left(job, tasks, journal.done)
    tally.skipped = tally.rows - sum(len(task.rows) for task in left)
    if not left:
        return tally
    written: set[tuple[str, str]] = set()
    with _cluster(address, workers) as gpus:
        tally.models = gpus if gpus and job.load.device != "cpu" else workers
        tally.begin()
        for results in _answers(job, left, tally, on_gpus=tally.models == gpus and gpus > 0):
            new = [one for one in results if (one.key, one.id) not in written]
            written.update((one.key, one.id) for one in new)
            journal.write(new)
            on_results(new)
            tally.add(new)
            tally.reading = sum(tally.seconds[stage] for stage in READING)
            on_rows(tally)
            if stop():
                break
        tally.end()
    return tally


def _answers(job: Job, tasks: Sequence[Task], tally: Tally, on_gpus: bool) -> Iterator[list[Result]]:
    import ray

    where = os.getcwd()
    items = [{"task": pickle.dumps(task)} for task in tasks]
    data = ray.data.from_items(items, override_num_blocks=-(-len(items) // CLIPS))
    opened = data.map(Decode, fn_constructor_args=(job, where), concurrency=(1, tally.workers), num_cpus=1)
    answered = opened.map_batches(
        Answer,
        fn_constructor_args=(job, where),
        concurrency=tally.models,
        batch_size=None,
        **({"num_gpus": 1} if on_gpus else {"num_cpus": 1}),
    )
    for row in answered.iter_rows():
        yield pickle.loads(row["results"])


class Decode:
    """A Ray worker that opens clips."""

    def __init__(self, job: Job, folder: str) -> None:
        with suppress(OSError):  # on other machines paths must be absolute, or addresses
            os.chdir(folder)
        self.opener = Opener(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        opened = self.opener.open(pickle.loads(row["task"]))
        if isinstance(opened.clip, Generator):  # a long clip is too large to send: the model's worker reads it
            opened.clip.close()
            opened = replace(opened, clip=UNREAD)
        return {"opened": pickle.dumps(opened, protocol=5)}


class Answer:
    """A Ray worker with a model."""

    def __init__(self, job: Job, folder: str) -> None:
        from ..from_pretrained import load

        with suppress(OSError):
            os.chdir(folder)
        self.answerer = Answerer(partial(load, job.model, **vars(job.load)), job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        parts = self.answerer(map(pickle.loads, batch["opened"]))
        return {"results": [pickle.dumps(part) for part in parts]}


def _left(job: Job, tasks: Sequence[Task], done: Done) -> list[Task]:
    """The tasks with their unfinished rows."""
    if not len(done):
        return list(tasks)

    def unfinished(task: Task) -> Task:
        try:
            mark = mark_of(task.media)
        except EpError:
            mark = f"unread:{task.media}"
        rows = tuple(one for one in task.rows if not done.take(job.key(mark, task, one.question), one.id))
        return replace(task, rows=rows)

    with ThreadPoolExecutor(MARKS_AT_ONCE) as pool:
        return [task for task in pool.map(unfinished, tasks) if task.rows]


@contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[int]:
    """A connection to Ray; yields the number of GPUs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    try:
        import ray
        import ray.data
    except ImportError as error:
        hint = "Install it with `pip install 'echoingpixels[ray]'`, or leave --engine out."
        raise DataError("--engine ray needs the package ray[data].", hint) from error
    # On this machine, one slot for each reader and each model: with fewer they would wait for one another.
    own: dict[str, Any] = {"num_cpus": 2 * workers, "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"Ray could not be reached: {reason}", "Check --ray-address, or leave it out.") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        yield int(ray.cluster_resources().get("GPU", 0))
    finally:
        ray.shutdown()
