"""Time and memory from the joint stream to the first token: with all tokens, and with the sieve's choice.

Random weights of real sizes. Every round runs all settings; speedups are ratios within a round. `bare` is the layers
alone: the sieve's over all tokens and the decoder's over the number of kept tokens, with no selection between.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Annotated, Any

import torch
import typer

from bench.memory import measured
from bench.stack import random_stack, random_stream
from echoingpixels.generation.decode import stream_tokens
from echoingpixels.inputs.token_stream import Selection, TokenStream
from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions
from echoingpixels.reducers.cs2 import SieveOptions
from epcli import console

FIRST = GenerateOptions(max_new_tokens=1)


def main(
    model: Annotated[str, typer.Option(help="A known model, for its sizes.")] = "qwen2.5-omni-3b",
    tokens: Annotated[int, typer.Option(help="Tokens of the prompt, text included.")] = 2048,
    keep: Annotated[str, typer.Option(help="Shares to keep, comma-separated.")] = "0.2,0.1,0.05",
    layers: Annotated[int, typer.Option(help="Layers of the sieve.")] = 4,
    repeat: Annotated[int, typer.Option(help="Rounds that count; a round before them does not.")] = 3,
    bare: Annotated[bool, typer.Option(help="Also time the layers alone.")] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Seconds, speedup and peak memory above the weights, by share kept."""
    stack = random_stack(model, SieveOptions(layers, "extractive"))
    stream = random_stream(stack, tokens)
    runs: dict[str, Callable[[], object]] = {"full": partial(_answer, stack, stream, "full", 1.0)}
    for share in map(float, keep.split(",")):
        runs[f"cs2 {share:g}"] = partial(_answer, stack, stream, "cs2", share)
        if bare:
            runs[f"bare {share:g}"] = partial(_bare, stack, stream, share)
    rounds = [{name: measured(run)[1:] for name, run in runs.items()} for _ in range(repeat + 1)][1:]
    rows: list[dict[str, Any]] = []
    for name in runs:
        seconds = [one[name][0] for one in rounds]
        ratio = [one["full"][0] / one[name][0] for one in rounds]
        memory = [one[name][1] for one in rounds]
        rows.append(
            {
                "run": name,
                "seconds": median(seconds),
                "speedup": median(ratio),
                "low": min(ratio),
                "high": max(ratio),
                "peak_bytes": median(memory),
            }
        )
    if json_:
        console.out(json.dumps({"model": model, "tokens": tokens, "layers": layers, "runs": rows}))
        return
    cells = [
        [
            str(row["run"]),
            f"{row['seconds']:.2f} s",
            f"{row['speedup']:.2f} × ({row['low']:.2f}–{row['high']:.2f})",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
        ]
        for row in rows
    ]
    console.columns(["run", "to the first token", "against full", "peak above weights"], cells)


def _answer(model: EchoingPixels, stream: TokenStream, reducer: str, keep: float) -> None:
    """Choose, take and decode the first token."""
    kept = stream.take(model.select(stream, reducer, keep)) if reducer != "full" else stream
    for _ in stream_tokens(model.backbone, kept, FIRST):
        pass


@torch.no_grad()
def _bare(model: EchoingPixels, stream: TokenStream, keep: float) -> None:
    """The same layers over the same numbers of tokens, with no score head, choice, cache or logits."""
    assert model.sieve is not None
    backbone, n = model.backbone, int(stream.pool.sum())
    backbone.run_layers(model.sieve.layers, stream.embeds, stream.positions, stream.key_mask)
    kept = torch.ones_like(stream.mask)
    kept[:, int(n * keep) : n] = False
    backbone.hidden(stream.take(Selection(kept)))


if __name__ == "__main__":
    typer.run(main)
