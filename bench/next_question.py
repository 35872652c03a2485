"""Seconds to the first token of questions about one clip: the first one from the file on, then the next ones.

A real clip, and real sizes with random weights: the times are real, the choice of tokens means nothing. `maxmin-floors`
and other reducers that do not read the question reuse what the decoder has read of the clip; `cs2` starts from the
features.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from bench.first_token import QUESTION
from bench.stack import random_model
from echoingpixels import load
from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.media.sandbox.worker import Worker
from echoingpixels.options import AskOptions, GenerateOptions, MediaOptions
from echoingpixels.reducers.cs2 import SieveOptions
from epcli import console

NEXT = ("Who falls first?", "What does the man say before the dog barks?", "Where is it?")


def main(
    clip: Annotated[Path, typer.Argument(help="A clip.")],
    model: Annotated[str, typer.Option(help="tiny, or a known model for its sizes.")] = "qwen2.5-omni-3b",
    seconds: Annotated[float, typer.Option(help="Length of the part, at 2 frames a second.")] = 60.0,
    reducers: Annotated[str, typer.Option(help="Comma-separated.")] = "full,maxmin-floors,cs2",
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.1,
    layers: Annotated[int, typer.Option(help="Layers of the sieve.")] = 4,
) -> None:
    """Seconds to the first token of the first question and, in the median, of three more; JSON, a line a reducer."""
    on = load(model) if model == "tiny" else random_model(model, SieveOptions(layers, "extractive"))
    with Worker() as worker:
        worker.start()
        for name in reducers.split(","):
            ask = AskOptions(name, 1.0 if name == "full" else keep, GenerateOptions(max_new_tokens=1), evidence=False)
            began = time.perf_counter()
            encoded = on.encode(clip, MediaOptions(end=seconds), cache=None, reader=worker.stream)
            encoded.ask(QUESTION, ask)
            first = time.perf_counter() - began
            later = median(_seconds(encoded, question, ask) for question in NEXT)
            row = {"reducer": name, "tokens": encoded.media.span.tokens, "first": first, "next": later}
            console.out(json.dumps({**row, "ratio": later / first}))


def _seconds(clip: EncodedClip, question: str, ask: AskOptions) -> float:
    began = time.perf_counter()
    clip.ask(question, ask)
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)
