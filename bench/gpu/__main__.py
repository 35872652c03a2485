"""`python -m bench.gpu`: parity, speed and memory on one machine in a bounded time, as one JSON and one Markdown file.

Every result is written as soon as it is there. A case that fails becomes a row with its error, and the others run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.gpu import parity, speed, waits
from bench.gpu.film import write_film
from bench.gpu.models import RANDOM, Models, chosen_weights
from bench.gpu.rows import Budget, Case, Row, failed, run
from bench.gpu.setup import Setup, facts
from bench.gpu.table import SECTIONS, markdown
from echoingpixels.checkpoints.loading import device_of
from echoingpixels.media.sandbox.worker import Worker
from echoingpixels.options import AUTO
from echoingpixels.profiling.measurements import Spread
from echoingpixels.storage.folders import write_text_atomically
from epcli import console

SOME_FAILED = 3  # exit code, as of ep


@dataclass(frozen=True)
class Defaults:
    """What is measured unless it is given: the model, and the length and frame size of the film."""

    model: str
    seconds: float
    size: tuple[int, int]  # width and height


DEFAULTS = {"cuda": Defaults("qwen2.5-omni-3b", 30.0, (1280, 720)), "cpu": Defaults("tiny", 4.0, (320, 240))}
WEIGHTS = "random, or the name or folder of a checkpoint; default: the model's, if it is on this machine, else random."


def main(
    model: Annotated[str | None, typer.Option(help="A known model; default qwen2.5-omni-3b, on a CPU tiny.")] = None,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = AUTO,
    clip: Annotated[Path | None, typer.Option(help="A file in place of the bundled clip, repeated.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of the clip; default 30, on a CPU 4.")] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Width and height; default 1280 720, on a CPU 320 240.")
    ] = None,
    keep: Annotated[str, typer.Option(help="Shares to keep, comma-separated.")] = "0.2,0.1,0.05",
    batch: Annotated[int, typer.Option(help="Questions of a batch.")] = 8,
    tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 32,
    repeat: Annotated[int, typer.Option(help="Rounds that count; a round before them does not.")] = 3,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Also compile the decoding step.")] = True,
    sections: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(SECTIONS),
    minutes: Annotated[float, typer.Option(help="After these no case begins.")] = 10.0,
    out: Annotated[Path, typer.Option(help="Folder of gpu.json and gpu.md.")] = Path("runs/gpu"),
) -> None:
    """Measure all sections, write both files and print the Markdown. Exits with 3 if a case failed."""
    budget, on = Budget(minutes), device_of(device)
    default = DEFAULTS[on.type]
    name = model or default.model if weights in (None, RANDOM) else weights
    seconds = seconds or default.seconds
    models = Models(name, chosen_weights(name, weights), on)
    wanted = sections.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; known: {', '.join(SECTIONS)}.")
    with tempfile.TemporaryDirectory() as folder, Worker() as worker:
        if clip is None:
            clip = Path(folder) / "film.mp4"
            write_film(clip, seconds, *(size or default.size))
        keeps = tuple(map(float, keep.split(",")))
        setup = Setup(models, worker, clip, seconds, keeps, batch, tokens, repeat, budget)
        known = facts(setup)
        results = measure(setup, compiled, wanted, lambda done: write(known, budget.seconds, done, out))
    console.out((out / "gpu.md").read_text(encoding="utf-8"), end="")
    if failed(results):
        raise typer.Exit(SOME_FAILED)


def cases(setup: Setup, compiled: bool) -> Iterator[Case]:
    """All cases, those of most worth first; one model in memory at a time."""
    yield from parity.cases(setup, "float32")
    yield from parity.cases(setup, setup.half)
    yield from speed.stages(setup)
    yield from speed.encoders(setup)
    yield from waits.cases(setup)
    yield from speed.decoding(setup, compiled)
    yield from speed.quantization(setup)


def measure(
    setup: Setup, compiled: bool, wanted: list[str], on_rows: Callable[[dict[str, list[Row]]], object]
) -> dict[str, list[Row]]:
    """The rows of all wanted sections. `on_rows` gets those so far after each case."""
    done: dict[str, list[Row]] = {name: [] for name in SECTIONS if name in wanted}
    for section, rows in run((case for case in cases(setup, compiled) if case.section in done), setup.budget):
        done[section] += rows
        console.say(f"{setup.budget.seconds:.0f} s: {section}, {rows[-1]['case']}: {rows[-1]['state']}")
        on_rows(done)
    return done


def write(known: dict[str, Any], seconds: float, sections: dict[str, list[Row]], out: Path) -> None:
    """Write gpu.json and gpu.md."""
    out.mkdir(parents=True, exist_ok=True)
    whole = {"facts": known, "seconds": seconds, "sections": sections}
    write_text_atomically(out / "gpu.json", json.dumps(whole, indent=1, default=_plain) + "\n")
    write_text_atomically(out / "gpu.md", markdown(known, sections, seconds))


def _plain(value: Any) -> dict[str, float]:
    if not isinstance(value, Spread):
        raise TypeError(f"{value!r} has no JSON form")
    return asdict(value)


if __name__ == "__main__":
    typer.run(main)
