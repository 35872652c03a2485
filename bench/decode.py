"""Decoding throughput after the first token, by KV cache: one that grows, a static one, and a compiled step.

Known models other than tiny have random weights of real sizes. Every round runs all ways. Seconds are the processor's,
which depend less on other work of the machine.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from statistics import median
from typing import Annotated, Any

import typer

from bench.stack import random_stack, random_stream
from echoingpixels.backbones.base import Backbone
from echoingpixels.from_pretrained import load
from echoingpixels.generation.decode import stream_tokens
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.options import GenerateOptions
from echoingpixels.reducers.cs2 import SieveOptions
from echoingpixels.report import Stopwatch
from epcli import console

WAYS = {
    "plain": GenerateOptions(),
    "static": GenerateOptions(static=True),
    "compiled": GenerateOptions(compile=True),
}


class ProcessorTime(Stopwatch):
    """Adds up the processor's seconds."""

    def now(self) -> float:
        return time.process_time()


def main(
    model: Annotated[str, typer.Option(help="tiny, or a known model, for its sizes.")] = "tiny",
    tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 400,
    new: Annotated[int, typer.Option(help="Tokens of the answer.")] = 64,
    ways: Annotated[str, typer.Option(help="Comma-separated; plain always runs.")] = ",".join(WAYS),
    repeat: Annotated[int, typer.Option(help="Rounds that count; a round before them does not, and compiles.")] = 3,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tokens/s after the first, the ratio to plain within a round, and seconds of the first answer of all."""
    made = load("tiny", device="cpu") if model == "tiny" else random_stack(model, SieveOptions(0, "extractive"))
    backbone, stream = made.backbone, random_stream(made, tokens)
    backbone.stop_ids = frozenset()
    chosen = ["plain", *(way for way in ways.split(",") if way != "plain")]
    rounds = [{way: _run(backbone, stream, way, new) for way in chosen} for _ in range(repeat + 1)]
    rows = [_row(way, rounds, new) for way in chosen]
    if json_:
        console.out(json.dumps({"model": model, "tokens": tokens, "new": new, "ways": rows}))
        return
    console.columns(["way", "tokens/s", "against plain", "first answer"], [_cells(row) for row in rows])


def _run(backbone: Backbone, stream: TokenStream, way: str, new: int) -> tuple[float, float]:
    """Processor seconds of all tokens after the first, and wall seconds from the prompt on."""
    began = time.perf_counter()
    watch = ProcessorTime(stream.embeds.device)
    options = replace(WAYS[way], max_new_tokens=new)
    tokens = sum(1 for _ in stream_tokens(backbone, stream, options, watch))
    assert tokens == new, f"{tokens} of {new} tokens"
    return watch.seconds["generate"], time.perf_counter() - began


def _row(way: str, rounds: list[dict[str, tuple[float, float]]], new: int) -> dict[str, Any]:
    """Medians over the rounds that count, and the ratios' extremes."""
    first, *counted = rounds
    ratios = [one["plain"][0] / one[way][0] for one in counted]
    return {
        "way": way,
        "tokens_per_s": median((new - 1) / one[way][0] for one in counted),
        "speedup": median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "first_s": first[way][1],
    }


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["way"],
        f"{row['tokens_per_s']:.3g}",
        f"{row['speedup']:.2f} × ({row['low']:.2f}–{row['high']:.2f})",
        f"{row['first_s']:.1f} s",
    ]


if __name__ == "__main__":
    typer.run(main)
