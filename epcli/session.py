"""The needs of a command before it runs: a model, a process that reads media, a writable file.

Requests are checked before a model's weights are read.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from echoingpixels.errors import DataError, ModelError, OptionError
from echoingpixels.options import AUTO, LoadOptions, reducer_of
from echoingpixels.reducer_names import SIEVED

from . import console

if TYPE_CHECKING:
    from echoingpixels.checkpoints.hub import Download
    from echoingpixels.media import Worker
    from echoingpixels.model import EchoingPixels

ROWS_FAILED, INTERRUPTED = 3, 130  # exit codes


@dataclass(frozen=True)
class Chosen:
    """A model by name, with concrete options."""

    name: str
    load: LoadOptions


def choose(name: str, options: LoadOptions, yes: bool = False) -> Chosen:
    """The model that `--model` stands for, downloaded if necessary.

    A download is announced, and on a terminal the user is asked unless `yes`. Without consent `auto` is tiny, and
    ModelError is raised for any other name.
    """
    from echoingpixels.checkpoints.hub import download, measured
    from echoingpixels.checkpoints.loading import KNOWN, SMALLEST
    from echoingpixels.from_pretrained import resolve

    found = resolve(name, options)
    if found.download is not None:
        wanted = measured(found.download)
        if _agreed(wanted, yes):
            download(wanted, progress=sys.stderr.isatty())
        elif found.automatic:
            console.say(f"note: {found.name} fits this GPU; add --yes to download it: {wanted}.")
            found = resolve(SMALLEST, replace(options, quant=AUTO))
        else:
            known = found.name.lower() in KNOWN
            where = "is not on this machine" if known else "is neither a folder here nor in the hub's cache"
            hint = f"{'' if known else 'Check the path. '}Add --yes to download it, or use --model tiny."
            raise ModelError(f"{found.name} {where}. It would be downloaded: {wanted}.", hint)
    elif name.lower() == AUTO and found.name != SMALLEST:
        console.say(f"model: {found.name}, quantization {found.options.quant} ({found.reason})")
    return Chosen(found.name, found.options)


def planned(name: str, options: LoadOptions) -> Chosen:
    """The model that `--model` stands for, for a plan: without a download or a question to the user."""
    from echoingpixels.from_pretrained import resolve

    found = resolve(name, options)
    return Chosen(found.name, found.options)


def _agreed(wanted: Download, yes: bool) -> bool:
    """Whether to download, announced; False without a terminal to ask on."""
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    console.say(f"{wanted.name} is not on this machine. Download: {wanted}.")
    return yes or typer.confirm("Download it now?", default=False, err=True)


def load_model(chosen: Chosen, reducers: Iterable[str] = ()) -> EchoingPixels:
    """The model, checked to support these reducers."""
    with console.working(f"Loading {chosen.name} …"):
        from echoingpixels.from_pretrained import load

        check_model(chosen, reducers)
        _import_architecture()
        return load(chosen.name, chosen.load)


@cache
def _import_architecture() -> None:
    """Import the model's class, once, without garbage collection.

    Modules, functions and classes live as long as the program; collections would search them again and again.
    """
    gc.disable()
    try:
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration  # noqa: F401
    finally:
        gc.freeze()  # later collections leave these objects out, too
        gc.enable()


def named(chosen: Chosen, reducers: tuple[str, ...]) -> tuple[str, ...]:
    """The reducers, with auto resolved for this model. ModelError if there is no such model."""
    from echoingpixels.checkpoints.loading import has_sieve

    if AUTO not in reducers:
        return reducers
    sieved = has_sieve(chosen.name, chosen.load)
    return tuple(reducer_of(reducer, sieved) for reducer in reducers)


def check_model(chosen: Chosen, reducers: Iterable[str]) -> None:
    """ModelError if a model does not support a request, before its weights are read."""
    from echoingpixels.checkpoints.loading import check_sieve

    if not set(SIEVED).isdisjoint(reducers):
        check_sieve(chosen.name, chosen.load)


@contextmanager
def reading() -> Iterator[Worker]:
    """A process that reads media, so that no file can crash the command; it ends with the block."""
    from echoingpixels.media import Worker

    with Worker() as worker:
        worker.start()
        yield worker


def check_outfile(path: Path, option: str, endings: tuple[str, ...], sources: Iterable[Path], force: bool) -> None:
    """OptionError for an unknown ending or a path in `sources`; DataError if the file cannot be written, or exists and
    `force` is not given."""
    if path.suffix.lower() not in endings:
        raise OptionError(
            f"{option} is {path}, of an unknown file type.", f"Give a name that ends with {' or '.join(endings)}."
        )
    check_sources(path, option, sources)
    present = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path} cannot be written: {reason}.", f"Choose another {option}.") from error
    if not present:
        path.unlink()
    elif not force:
        raise DataError(f"{path} already exists.", f"Overwrite it with --force, or choose another {option}.")


def check_sources(path: Path, option: str, sources: Iterable[Path]) -> None:
    """OptionError if a file to be written is one of those to be read."""
    if not path.exists():
        return
    for source in sources:
        if source.exists() and path.samefile(source):
            raise OptionError(f"{option} would overwrite {source}.", "Choose another name.")
