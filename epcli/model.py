"""A model chosen, downloaded if agreed, and loaded for a command; requests are checked before its weights are read."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from echoingpixels.errors import ModelError
from echoingpixels.options import AUTO, SIEVED, Auto, Keep, LoadOptions, reducer_of

from . import console

if TYPE_CHECKING:
    from echoingpixels.checkpoints.hub import Download
    from echoingpixels.model import EchoingPixels


@dataclass(frozen=True)
class Chosen:
    """A model by name, with concrete options."""

    name: str
    load: LoadOptions


def choose(name: str, options: LoadOptions, yes: bool = False) -> Chosen:
    """The model that `--model` stands for, downloaded if need be.

    A download is announced, and asked for on a terminal unless `yes`. Without consent `auto` is tiny, and ModelError
    is raised for any other name.
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
    """The model that `--model` stands for, for a plan: nothing is downloaded or asked."""
    from echoingpixels.from_pretrained import resolve

    found = resolve(name, options)
    return Chosen(found.name, found.options)


def _agreed(wanted: Download, yes: bool) -> bool:
    """Whether to download, announced; False where no one can be asked."""
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    console.say(f"{wanted.name} is not on this machine. Download: {wanted}.")
    return yes or typer.confirm("Download it now?", default=False, err=True)


def load_model(chosen: Chosen, reducers: Iterable[str], keeps: Iterable[Keep] = ()) -> EchoingPixels:
    """The model, which supports all of these reducers, and the adaptive budget where that is asked for."""
    with console.working(f"Loading {chosen.name} …"):
        from echoingpixels.from_pretrained import load

        check_model(chosen, reducers, keeps)
        return load(chosen.name, **vars(chosen.load))


def named(chosen: Chosen, reducers: Iterable[str], keeps: Iterable[Keep]) -> tuple[str, ...]:
    """The reducers, with auto as what it stands for with this model. ModelError where there is no such model."""
    from echoingpixels.checkpoints.loading import has_sieve

    asked = tuple(reducers)
    if AUTO not in asked:
        return asked
    sieved = has_sieve(chosen.name, chosen.load) or any(isinstance(keep, Auto) for keep in keeps)  # else checked later
    return tuple(reducer_of(reducer, sieved) for reducer in asked)


def check_model(chosen: Chosen, reducers: Iterable[str], keeps: Iterable[Keep] = ()) -> None:
    """ModelError where a model does not support a request, before its weights are read."""
    from echoingpixels.checkpoints.loading import check_sieve, read_calibration
    from echoingpixels.reducers.adaptive import beyond

    if not set(SIEVED).isdisjoint(reducers):
        check_sieve(chosen.name, chosen.load)
    for keep in keeps:
        warning = beyond(read_calibration(chosen.name, chosen.load).table, keep) if isinstance(keep, Auto) else None
        if warning:
            console.say(f"note: {warning}")
