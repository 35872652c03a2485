"""Cost of a max-min pick beside the sieve's, and its covering radius by the number of tokens compared at once.

Cost: random weights of real sizes. Radius: the embeddings of real clips of the tiny model, joined to one long stream;
the distance (1 - cosine) of a token to the nearest kept one, mean and largest.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from bench.memory import measured
from bench.stack import random_stack, random_stream
from echoingpixels import load
from echoingpixels.datasets.reading import read_questions
from echoingpixels.inputs.token_stream import Selection, TokenStream
from echoingpixels.reducers import budget
from echoingpixels.reducers.budget import OnePool
from echoingpixels.reducers.cs2 import SieveOptions
from echoingpixels.reducers.pick import MaxMin, evenly
from epcli import console


def main(
    data: Annotated[Path | None, typer.Argument(help="JSONL as `ep evaluate` reads, for the covering radius.")] = None,
    model: Annotated[str, typer.Option(help="A known model, for its sizes.")] = "tiny",
    tokens: Annotated[int, typer.Option(help="Tokens of the prompt, text included.")] = 16_384,
    keep: Annotated[float, typer.Option(help="Share to keep.")] = 0.1,
    layers: Annotated[int, typer.Option(help="Layers of the sieve.")] = 2,
    repeat: Annotated[int, typer.Option(help="Rounds that count; a round before them does not.")] = 3,
    parts: Annotated[str, typer.Option(help="Tokens compared at once, comma-separated.")] = "512,1024,2048,4096",
) -> None:
    """Seconds of the sieve's scores and of the pick, and the radius of the kept tokens."""
    if data is None:
        _cost(model, tokens, keep, layers, repeat, [int(part) for part in parts.split(",")])
    else:
        _radius(_joined(data, tokens), keep, [*(int(part) for part in parts.split(",")), tokens])


@torch.no_grad()
def _cost(model: str, tokens: int, keep: float, layers: int, repeat: int, parts: list[int]) -> None:
    stack = random_stack(model, SieveOptions(layers, "extractive"))
    sieve, stream = stack.sieve, random_stream(stack, tokens)
    assert sieve is not None
    rounds = [measured(lambda: sieve.scores(stream))[1:] for _ in range(repeat + (repeat > 1))][repeat > 1 :]
    base = median(seconds for seconds, _ in rounds)
    cells = [[f"sieve, {layers} layers", f"{base:.2f} s", "", f"{max(peak for _, peak in rounds) / 1e6:.0f} MB"]]
    for budget.PART in parts:
        rounds = [measured(lambda: _picked(stream, keep))[1:] for _ in range(repeat + 1)][1:]
        seconds, peak = median(one for one, _ in rounds), max(one for _, one in rounds)
        cells.append([f"pick, {budget.PART}", f"{seconds:.2f} s", f"{seconds / base:.3f}", f"{peak / 1e6:.0f} MB"])
    console.columns(["", "seconds", "of the sieve's", "peak"], cells)


def _picked(stream: TokenStream, keep: float) -> Tensor:
    pool = OnePool()
    return pool.fill(MaxMin().rank(stream, None, pool, keep), stream, keep)


@torch.no_grad()
def _joined(data: Path, tokens: int) -> TokenStream:
    """The clips of questions, one after the other in one stream of up to that many tokens."""
    model, parts, clips = load("tiny"), [], {row.media: row for row in read_questions(data)}
    for path, row in clips.items():
        stream = model.embed(model.encode(path).prompt(row.question))
        parts.append(stream.take(Selection(stream.pool)))
        if sum(part.mask.shape[1] for part in parts) >= tokens:
            break

    whole = reduce(TokenStream.followed, parts)
    length = whole.mask.shape[1]
    return whole.rows([0], length, max(0, length - tokens))


@torch.no_grad()
def _radius(stream: TokenStream, keep: float, parts: list[int]) -> None:
    unit, choices = F.normalize(stream.embeds[0].float(), dim=-1), {"uniform": evenly(stream, keep)[0]}
    for budget.PART in parts:
        choices[f"max-min, {budget.PART}"] = _picked(stream, keep)[0]
    cells = []
    for name, kept in choices.items():
        near = (1 - unit @ unit[kept].T).amin(1)[~kept]
        cells.append([name, f"{int(kept.sum())}", f"{near.mean():.4f}", f"{near.max():.4f}"])
    console.columns(["choice, tokens compared at once", "kept", "mean distance", "largest distance"], cells)


if __name__ == "__main__":
    typer.run(main)
