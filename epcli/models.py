"""`ep models`: the models known by name, and what each needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import console
from . import options as o
from .report import big

if TYPE_CHECKING:
    from echoingpixels.catalog import Entry

HEADER = ("model", "here", "download", "quant", "weights", "60 s clip", "runs here", "sieve")
FITS = {True: "yes", False: "no", None: "?"}


def models(device: o.Device = "auto", json: o.Json = False) -> None:
    """List the known models: whether they are here, how large they are, and what memory they need.

    Memory is that of a 60 s clip of 720p with sound at 2 frames a second and --keep 0.1, by quantization.
    """
    from echoingpixels.catalog import known_models
    from echoingpixels.options import LoadOptions

    found = known_models(LoadOptions(device=device).device)
    if json:
        console.out_json({"models": [entry.as_dict() for entry in found]})
        return
    console.columns(HEADER, rows(found))


def rows(entries: Iterable[Entry]) -> list[tuple[str, ...]]:
    """One row for each model and quantization."""
    return [
        (
            entry.name,
            "yes" if entry.folder else "no",
            big(entry.download, "B"),
            need.quant,
            big(need.weights, "B"),
            big(need.peak, "B"),
            FITS[need.fits],
            ", ".join(entry.sieves) or "none",
        )
        for entry in entries
        for need in entry.needs
    ]
