"""How fast the tokens after the first come, by the way they are decoded: plain, static, compiled, looked up.

Known models other than tiny have random weights of real sizes, so their answers are noise and no guess is ever right:
`lookup` is then what wrong guesses cost, `echo` what right ones save. Every round runs all ways, and seconds are the
processor's, so that other work on the machine shows less.
"""

from __future__ import annotations

import json
import time
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench.stack import random_stack, random_stream
from echoingpixels.backbones.base import Backbone
from echoingpixels.from_pretrained import load
from echoingpixels.generation.decode import stream_tokens
from echoingpixels.inputs.stream import Stream
from echoingpixels.options import GenerateOptions
from echoingpixels.reducers.cs2 import SieveOptions
from echoingpixels.report import Stopwatch
from epcli import console

ECHO = "echo"
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "static": {"static": True},
    "compiled": {"compile": True},
    "lookup": {"lookup": 10},
    ECHO: {"lookup": 10},
}


class Working(Stopwatch):
    """Adds up the processor's seconds."""

    def now(self) -> float:
        return time.process_time()


class Repeating:
    """A backbone that does all its work, and then says four tokens over and over."""

    def __init__(self, backbone: Backbone, start: int) -> None:
        self.backbone, self.start = backbone, start

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def decode(self, token: Tensor, position: Tensor, mask: Tensor, cache: Any, compiled: bool = False) -> Tensor:
        """The real logits, with the next of the four on top."""
        logits = self.backbone.decode(token, position, mask, cache, compiled)
        return logits.scatter(-1, ((position - self.start) % 4)[..., None], torch.inf)


def main(
    model: Annotated[str, typer.Option(help="tiny, or a known model, for its sizes.")] = "tiny",
    tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 400,
    new: Annotated[int, typer.Option(help="Tokens of the answer.")] = 64,
    ways: Annotated[str, typer.Option(help="Which, comma-separated; plain is always there.")] = ",".join(WAYS),
    repeat: Annotated[int, typer.Option(help="Rounds that count; one before them does not, and compiles.")] = 3,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tokens a second after the first, beside plain within a round, and steps of the decoder a token."""
    made = load("tiny", device="cpu") if model == "tiny" else random_stack(model, SieveOptions(0, "extractive"))
    backbone, stream = made.backbone, random_stream(made, tokens)
    backbone.stop_ids = frozenset()
    chosen = ["plain", *(way for way in ways.split(",") if way != "plain")]
    rounds = [{way: _run(backbone, stream, way, new) for way in chosen} for _ in range(repeat + 1)]
    rows = [_row(way, rounds, new) for way in chosen]
    if json_:
        console.out(json.dumps({"model": model, "tokens": tokens, "new": new, "ways": rows}))
        return
    console.columns(
        ["way", "tokens/s", "against plain", "steps a token", "first answer"], [_cells(row) for row in rows]
    )


def _run(backbone: Backbone, stream: Stream, way: str, new: int) -> tuple[float, int, float]:
    """Seconds of all tokens after the first, in how many steps, and the seconds by the clock from the prompt on."""
    began = time.perf_counter()
    on: Any = Repeating(backbone, int(stream.next_position)) if way == ECHO else backbone
    watch = Working(stream.embeds.device)
    said = len(list(stream_tokens(on, stream, GenerateOptions(new, **WAYS[way]), watch)))
    assert said == new, f"{said} of {new} tokens"
    return watch.seconds["generate"], watch.times["generate"], time.perf_counter() - began


def _row(way: str, rounds: list[dict[str, tuple[float, int, float]]], new: int) -> dict[str, Any]:
    """Medians over the rounds that count, and the ratios' extremes."""
    first, *counted = rounds
    ratios = [one["plain"][0] / one[way][0] for one in counted]
    return {
        "way": way,
        "tokens_per_s": median((new - 1) / one[way][0] for one in counted),
        "speedup": median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "steps_per_token": counted[0][way][1] / (new - 1),
        "first_s": first[way][2],
    }


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["way"],
        f"{row['tokens_per_s']:.3g}",
        f"{row['speedup']:.2f} × ({row['low']:.2f}–{row['high']:.2f})",
        f"{row['steps_per_token']:.2f}",
        f"{row['first_s']:.1f} s",
    ]


if __name__ == "__main__":
    typer.run(main)
