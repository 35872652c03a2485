"""A model loaded for a command, with what it will be asked for checked before its weights are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from echoingpixels.options import SIEVED, LoadOptions

from . import console

if TYPE_CHECKING:
    from echoingpixels.model import EchoingPixels


def load_model(name: str, options: LoadOptions, reducers: Iterable[str]) -> EchoingPixels:
    """The model, which can do all of these reducers."""
    with console.working(f"Loading {name} …"):
        from echoingpixels.loading import check_sieve, load

        if not set(SIEVED).isdisjoint(reducers):
            check_sieve(name, options)
        return load(name, **vars(options))
