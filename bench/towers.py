"""How long the vision tower of a real model takes over a real clip, plain and encoding less.

Random weights: times and shares are real, features are not, so a glance's windows are drawn at random. Every round runs
all ways to encode; speedups are ratios of processor time within a round.
"""

from __future__ import annotations

import json
import time
from copy import copy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from echoingpixels.features.coarse_to_fine import Glance, chosen, glance_at, look_closer, places

from bench.stack import random_tower
from echoingpixels.backbones.base import Features
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.backbones.encoders import Repeats
from echoingpixels.features.encode import encode
from echoingpixels.inputs.patches import patches
from echoingpixels.media import read_clip
from echoingpixels.media.clip import Clip
from echoingpixels.options import LoadOptions, MediaOptions, read_encode
from echoingpixels.planning.meta_model import outline
from echoingpixels.report import Stopwatch
from epcli import console


def main(
    clip: Annotated[Path, typer.Argument(help="A clip.")],
    model: Annotated[str, typer.Option(help="A known model, for its tower's sizes.")] = "qwen2.5-omni-3b",
    start: Annotated[float, typer.Option(help="Begin here, in s.")] = 0.0,
    seconds: Annotated[float, typer.Option(help="So many of it, at 2 frames a second.")] = 18.5,
    ways: Annotated[str, typer.Option("--encode", help="Comma-separated.")] = "plain,repeats:0.1,glance:0.25",
    repeat: Annotated[int, typer.Option(help="Rounds.")] = 1,
    count: Annotated[
        bool, typer.Option("--count", help="Only count the cells that do not repeat; run nothing.")
    ] = False,
) -> None:
    """Cells encoded, processor seconds and speedup of each way to encode; JSON, one a line."""
    on = outline(model, LoadOptions(device="cpu")).model if count else random_tower(model)
    assert isinstance(on.backbone, QwenOmni)
    tower, read = on.backbone, MediaOptions(start=start, end=start + seconds, audio=False)
    film = read_clip(clip, read, frame_size=on.frame_size)
    if count:
        for way in ways.split(","):
            fresh = Repeats(read_encode(way).amount, on.backbone.window).fresh(
                *patches(film.frames, film.frames.shape[1:3])
            )
            console.out(json.dumps({"encode": way, "cells": int(fresh.sum()), "of": fresh.numel()}))
        return
    rounds = [[_measured(tower, film, way) for way in ways.split(",")] for _ in range(repeat)]
    for i, way in enumerate(ways.split(",")):
        times = [one[i][0] for one in rounds]
        ratios = [one[0][0] / one[i][0] for one in rounds]
        _, cells, of, flops = rounds[0][i]
        row = {"encode": way, "cells": cells, "of": of, "flops": flops, "cpu_s": median(times)}
        console.out(json.dumps({**row, "speedup": median(ratios), "low": min(ratios), "high": max(ratios)}))


@torch.no_grad()
def _measured(backbone: QwenOmni, clip: Clip, way: str) -> tuple[float, int, int, float]:
    """Processor seconds from frames to features, cells encoded, cells of the clip, and operations."""
    on = copy(backbone)
    on.how = read_encode(way)
    watch, began = Stopwatch(torch.device("cpu")), time.process_time()
    glance: Glance | None = None
    if on.how.how == "glance":
        first, glance = glance_at(on, clip.pieces(), watch)
        seen = first.features if glance is None else _closer(on, glance, first.features)
    else:
        first = encode(on, clip.pieces(), watch)
        seen = first.features
    spent, of = time.process_time() - began, first.media.span.tokens
    if glance is not None:
        return spent, sum(glance.anew(seen).values()), of, glance.flops(on, seen)
    return spent, seen.anew().get("video", of), of, on.tower_flops(replace(first.media, mel=None), seen)


def _closer(on: QwenOmni, glance: Glance, first: Features) -> Features:
    scores = torch.rand(int(places(glance.whole).sum()), generator=torch.Generator().manual_seed(0))
    assert on.how.amount is not None
    return look_closer(on, glance, first, chosen(glance.whole, on.window, scores, on.how.amount))


if __name__ == "__main__":
    typer.run(main)
