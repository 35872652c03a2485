"""`ep batch`: many questions about many clips, each answered once whatever happens."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoingpixels.errors import DataError, OptionError
from echoingpixels.options import AUTO, AskOptions, GenerateOptions

from . import console
from . import options as o
from .batchbar import bar, summary
from .model import check_model, choose

if TYPE_CHECKING:
    from echoingpixels.batch.result import Result
    from echoingpixels.batch.task import Task

ROWS_FAILED, INTERRUPTED = 3, 130
SOURCES = (
    "Files, folders, patterns, JSONL files with rows (media; also question, id, start, end), s3://, gs://, https://."
)
OUT = "Where rows go, as they come: a name that ends with .jsonl, .csv or .parquet."


def batch(
    source: Annotated[list[str], typer.Argument(help=SOURCES)],
    out: Annotated[Path, typer.Option("--out", help=OUT)],
    question: Annotated[list[str] | None, typer.Option("--question", help="May be given several times.")] = None,
    questions: Annotated[Path | None, typer.Option("--questions", help="A text file, one question a line.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: skip what is done, repeat what failed.")] = False,
    no_retry: Annotated[bool, typer.Option("--no-retry", help="With --resume: leave out what failed, too.")] = False,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray for several GPUs or machines.")] = "local",
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="A Ray cluster, not this machine.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that decode; with ray, at most.")] = 1,
    model: o.Model = AUTO,
    sieve: o.Sieve = None,
    reducer: o.Reducer = AUTO,
    keep: o.KeepText = o.KEEP_TEXT,
    quant: o.QuantName = AUTO,
    device: o.Device = AUTO,
    dtype: o.DtypeName = AUTO,
    yes: o.Yes = False,
    fps: o.Fps = o.FPS,
    max_frames: o.MaxFrames = o.MAX_FRAMES,
    max_pixels: o.MaxPixels = None,
    encode: o.EncodeText = o.ENCODE_TEXT,
    no_audio: o.NoAudio = False,
    audio_track: o.AudioTrack = None,
    max_new_tokens: o.MaxNewTokens = o.MAX_NEW_TOKENS,
    compile: o.Compile = False,
    cache_dir: o.CacheDir = None,
    no_cache: o.NoCache = False,
    json: o.Json = False,
) -> int:
    """Answer questions about many clips; every row is on disk before the next is begun.

    Stopped at any moment, even by force, the same command with --resume goes on: every row comes once.
    A clip that fails gets rows that say why, and the others go on; the exit code is then 3.
    With --json, rows go to stdout, too, one object a line.
    """
    read = o.media_options(fps, max_frames, no_audio, audio_track)
    load_options = o.load_options(sieve, quant, device, max_pixels, encode, cache_dir, no_cache, dtype=dtype)
    ask = AskOptions(reducer, o.keep_of(keep), GenerateOptions(max_new_tokens, compile=compile))
    if engine not in ("local", "ray"):
        raise OptionError(f"Unknown engine {engine!r}.", "Known: local, ray.")
    if ray_address is not None and engine != "ray":
        raise OptionError("--ray-address says where Ray runs.", "Give --engine ray, too.")
    journal_at = _journal_path(out, resume)
    tasks = _tasks(source, question or [], questions)
    chosen = choose(model, load_options, yes)
    check_model(chosen, [reducer], [ask.keep])
    from echoingpixels.batch.cluster import run_ray
    from echoingpixels.batch.job import make_job
    from echoingpixels.batch.journal import Journal
    from echoingpixels.batch.run import nothing, run
    from echoingpixels.batch.table import write_table
    from echoingpixels.from_pretrained import load

    job = make_job(chosen.name, chosen.load, read, ask, o.cache_folder(cache_dir, no_cache))
    rows = sum(len(task.rows) for task in tasks)
    ids = frozenset(wanted.id for task in tasks for wanted in task.rows)
    with Journal(journal_at, ids, resume, not no_retry) as journal, _stopping() as stop, bar(rows) as shown:
        told: dict[str, Any] = {"on_rows": shown, "on_results": _print if json else nothing, "stop": stop}
        if engine == "ray":
            tally = run_ray(job, tasks, journal, workers, address=ray_address, **told)
        else:
            tally = run(job, tasks, journal, lambda: load(chosen.name, **vars(chosen.load)), workers, **told)
    console.pairs(summary(tally))
    if tally.done < rows:
        console.say(f"stopped: {tally.done} of {rows} rows are in {journal_at}; go on by the same command and --resume")
        return INTERRUPTED
    if journal_at != out:
        write_table(journal_at, out)
    return ROWS_FAILED if tally.failed else 0


def _journal_path(out: Path, resume: bool) -> Path:
    """Where rows are written as they come. OptionError for an unknown ending, DataError where there is something."""
    from echoingpixels.batch.table import ENDINGS, check_table, journal_path

    if out.suffix.lower() not in ENDINGS:
        raise OptionError(f"--out is {out}, of no known kind.", f"Give a name that ends with {' or '.join(ENDINGS)}.")
    check_table(out)
    journal = journal_path(out)
    for path in (out, journal):
        if path.exists() and not resume:
            raise DataError(f"{path} is already there.", "Go on with it by --resume, or choose another --out.")
    return journal


def _tasks(sources: list[str], asked: list[str], file: Path | None) -> list[Task]:
    """The clips with their questions."""
    from echoingpixels.batch.sources import find_tasks
    from echoingpixels.datasets.questions import read_plain

    if asked and file is not None:
        raise OptionError("--question and --questions are both given.", "Give one of them.")
    with console.working("Looking for clips …"):
        return find_tasks(sources, asked if file is None else read_plain(file))


def _print(results: list[Result]) -> None:
    for one in results:
        console.out_json(one.as_dict())


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C lets the batch at hand finish; the second one stops at once."""
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)
        console.say("stopping after the answers at hand; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
