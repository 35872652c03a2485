"""`ep models`: the models known by name, their size and memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from echoingpixels.errors import OptionError
from echoingpixels.options import AUTO

from .. import console
from .. import options as o
from ..render.report import big

if TYPE_CHECKING:
    from echoingpixels.planning.catalog import Entry

DEFAULT = "default"
ACTION = f"{DEFAULT}: show or save the model for --model auto. Without it, list the models."
HEADER = ("model", "local", "download", "quant", "weights", "60 s clip", "fits", "sieve")
FITS = {True: "yes", False: "no", None: "?"}


def models(
    action: Annotated[str | None, typer.Argument(help=ACTION)] = None,
    name: Annotated[
        str | None, typer.Argument(help="Model to save as the default; auto deletes the saved default.")
    ] = None,
    quant: o.QuantName = AUTO,
    device: o.Device = AUTO,
    json: o.Json = False,
) -> None:
    """List the known models: whether they are downloaded, their size, and the memory they need.

    Memory is estimated for a 60 s clip of 720p with audio at 2 frames per second and --keep 0.1, by quantization.
    `ep models default NAME` saves the model, and with --quant the quantization, for --model auto.
    """
    from echoingpixels.from_pretrained import resolve, save_default
    from echoingpixels.options import LoadOptions

    options = LoadOptions(quant=cast(Any, quant), device=device)
    if action not in (None, DEFAULT):
        raise OptionError(f"Unknown action {action!r}.", f"Use `ep models`, or `ep models {DEFAULT} NAME`.")
    if name is not None:
        save_default(name, quant)
    chosen = resolve(AUTO, options)
    line = f"{AUTO} is {chosen.name}, quantization {chosen.options.quant}: {chosen.reason}"
    default = {"model": chosen.name, "quant": chosen.options.quant, "reason": chosen.reason}
    if action == DEFAULT:
        console.out_json({"default": default}) if json else console.out(line)
        return
    from echoingpixels.planning.catalog import known_models

    found = known_models(options.device)
    if json:
        console.out_json({"default": default, "models": [entry.as_dict() for entry in found]})
        return
    console.columns(HEADER, rows(found))
    console.say(line)


def rows(entries: Iterable[Entry]) -> list[tuple[str, ...]]:
    """One row per model and quantization."""
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
