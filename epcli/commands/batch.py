"""`ep batch`: many questions about many clips; an interrupted run resumes without duplicates."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoingpixels.errors import DataError, OptionError

from .. import console
from .. import options as o
from ..grouped import grouped
from ..render.batch import bar, summary
from ..session import INTERRUPTED, ROWS_FAILED, check_model, choose

if TYPE_CHECKING:
    from echoingpixels.batch.job import Job, Task
    from echoingpixels.batch.journal import Journal
    from echoingpixels.batch.result import Result
    from echoingpixels.batch.tally import Tally

SOURCES = (
    "Files, folders, glob patterns, JSONL files of rows (media; optionally question, id, start, end), or s3://, gs:// "
    "and https:// addresses."
)
OUT = "File to write rows to, one per answer: .jsonl, .csv or .parquet."


@dataclass(frozen=True, kw_only=True)
class BatchQuestions:
    """The questions about every clip without its own."""

    question: Annotated[
        list[str] | None, o.questions_option("--question", help="A question about every clip; may be repeated.")
    ] = None
    questions: Annotated[
        Path | None, o.questions_option("--questions", help="A text file with one question per line.")
    ] = None

    def tasks(self, sources: list[str]) -> list[Task]:
        """The clips with their questions."""
        from echoingpixels.batch.sources import find_tasks
        from echoingpixels.datasets.questions import read_plain

        if self.question and self.questions is not None:
            raise OptionError("--question and --questions are both given.", "Give one of them.")
        with console.working("Listing clips …"):
            return find_tasks(sources, read_plain(self.questions) if self.questions else self.question or [])


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where a batch runs. OptionError for an unknown engine."""

    engine: Annotated[str, typer.Option("--engine", help="local: this machine; ray: several GPUs or machines.")] = (
        "local"
    )
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="Address of a Ray cluster, in place of this machine.")
    ] = None
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes that decode media; with ray the maximum.")
    ] = 1

    def __post_init__(self) -> None:
        o.check_engine(self.engine)
        if self.ray_address is not None and self.engine != "ray":
            raise OptionError("--ray-address needs --engine ray.", "Add --engine ray.")


@grouped
def batch(
    source: Annotated[list[str], typer.Argument(help=SOURCES)],
    model: o.ModelGroup,
    tokens: o.TokenGroup,
    read: o.MediaGroup,
    questions: BatchQuestions,
    engine: Engine,
    out: Annotated[Path, o.output_option("--out", "-o", help=OUT)],
    output: o.OutputGroup,
    resume: Annotated[
        bool, o.output_option("--resume", help="Continue --out: skip rows that are done, retry failed rows.")
    ] = False,
    no_retry: Annotated[bool, o.output_option("--no-retry", help="With --resume: do not retry failed rows.")] = False,
) -> int:
    """Answer questions about many clips; an interrupted run resumes without duplicates.

    Each row is written to disk before the next one starts.
    After an interruption of any kind, repeat the command with --resume.
    A clip that fails gets rows with an error, and the others continue; the exit code is then 3.
    The start and end of a row replace --start and --end.
    With --json, rows are also printed to stdout, one JSON object per line.
    """
    media, ask = read.media_options(), tokens.ask_options(model)
    load = model.load_options(read.max_pixels, ask.share)
    journal_at = _journal_path(out, resume)
    tasks = questions.tasks(source)
    chosen = choose(model.model, load, model.yes)
    check_model(chosen, [ask.reducer])
    from echoingpixels.batch.job import make_job
    from echoingpixels.batch.journal import Journal
    from echoingpixels.batch.table import write_table

    job = make_job(chosen.name, chosen.load, media, ask, model.features)
    rows = sum(len(task.rows) for task in tasks)
    ids = frozenset(wanted.id for task in tasks for wanted in task.rows)
    with Journal(journal_at, ids, resume, not no_retry) as journal:
        tally = _run(job, tasks, journal, engine, output.json)
    console.pairs(summary(tally))
    if tally.done < rows:
        console.say(f"stopped: {tally.done} of {rows} rows are in {journal_at}; repeat the command with --resume")
        return INTERRUPTED
    if journal_at != out:
        write_table(journal_at, out)
    return ROWS_FAILED if tally.failed else 0


def _run(job: Job, tasks: list[Task], journal: Journal, engine: Engine, json: bool) -> Tally:
    """Answer all rows, with a progress bar; print them with `json`."""
    from echoingpixels.batch.cluster import run_ray
    from echoingpixels.batch.run import nothing, run
    from echoingpixels.from_pretrained import load

    on_results = _print if json else nothing
    with _stopping() as stop, bar(sum(len(task.rows) for task in tasks)) as on_rows:
        if engine.engine == "ray":
            return run_ray(job, tasks, journal, engine.workers, on_rows, on_results, stop, engine.ray_address)
        model = partial(load, job.model, job.load)
        return run(job, tasks, journal, model, engine.workers, on_rows, on_results, stop)


def _journal_path(out: Path, resume: bool) -> Path:
    """The file that rows are appended to. OptionError for an unknown ending, DataError if a file exists."""
    from echoingpixels.batch.table import ENDINGS, check_table, journal_path

    if out.suffix.lower() not in ENDINGS:
        raise OptionError(
            f"--out is {out}, of an unknown file type.", f"Give a name that ends with {' or '.join(ENDINGS)}."
        )
    check_table(out)
    journal = journal_path(out)
    for path in (out, journal):
        if path.exists() and not resume:
            raise DataError(f"{path} already exists.", "Continue it with --resume, or choose another --out.")
    return journal


def _print(results: list[Result]) -> None:
    for one in results:
        console.out_json(one.as_dict())


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C lets the current answers finish; the second one stops at once."""
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)
        console.say("stopping after the current answers; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
