"""A model loaded for a command, with what it will be asked for checked before its weights are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from echoingpixels.options import AUTO, SIEVED, Auto, Keep, LoadOptions, reducer_of

from . import console

if TYPE_CHECKING:
    from echoingpixels.model import EchoingPixels


def load_model(name: str, options: LoadOptions, reducers: Iterable[str], keeps: Iterable[Keep] = ()) -> EchoingPixels:
    """The model, which can do all of these reducers, and choose how many tokens are enough where that is asked."""
    with console.working(f"Loading {name} …"):
        from echoingpixels.loading import load

        check_model(name, options, reducers, keeps)
        return load(name, **vars(options))


def named(name: str, options: LoadOptions, reducers: Iterable[str], keeps: Iterable[Keep]) -> tuple[str, ...]:
    """The reducers, with auto as what it stands for with this model. ModelError where there is no such model."""
    from echoingpixels.loading import has_sieve

    asked = tuple(reducers)
    if AUTO not in asked:
        return asked
    sieved = has_sieve(name, options) or any(isinstance(keep, Auto) for keep in keeps)  # else said when it is checked
    return tuple(reducer_of(reducer, sieved) for reducer in asked)


def check_model(name: str, options: LoadOptions, reducers: Iterable[str], keeps: Iterable[Keep] = ()) -> None:
    """ModelError where a model cannot do what will be asked of it, before its weights are read."""
    from echoingpixels.auto import beyond
    from echoingpixels.loading import check_sieve, read_calibration

    if not set(SIEVED).isdisjoint(reducers):
        check_sieve(name, options)
    for keep in keeps:
        said = beyond(read_calibration(name, options).table, keep) if isinstance(keep, Auto) else None
        if said:
            console.say(f"note: {said}")
