"""What encoding less costs in right answers and saves in the towers, by how much is encoded.

Every clip is read once and kept, so that only what the towers are given differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from echoingpixels import load
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.datasets.reading import read_questions
from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.evaluation.evaluate import Run, evaluate
from echoingpixels.media import read_clip
from echoingpixels.media.clip import Clip, Pieces
from echoingpixels.model import EchoingPixels
from echoingpixels.options import MediaOptions, read_encode
from echoingpixels.reducers.setting import settings
from epcli import console
from epcli.options import keeps, reducers

Size = Callable[[int, int], tuple[int, int]]


class Counted(EchoingPixels):
    """A model that adds up what its towers did."""

    def __init__(self, model: EchoingPixels, how: str) -> None:
        assert isinstance(model.backbone, QwenOmni)
        on = copy(model.backbone)
        on.how = read_encode(how)
        super().__init__(on, model.sieve)
        self.counts = {"cells": 0.0, "of": 0.0, "tower_s": 0.0, "tower_flops": 0.0}

    def look(self, clip: Clip | Pieces, decode_s: float = 0.0) -> EncodedClip:
        """Look, and count; of a glance, the first look alone."""
        looked = super().look(clip, decode_s)
        coarse, seen, span = looked.glance and looked.glance.coarse, looked.features, looked.media.span
        cells = len(span.times) * span.rows * span.columns
        self.counts["of"] += cells
        self.counts["cells"] += (
            sum(looked.glance.anew(seen).values()) if looked.glance else seen.anew().get("video", cells)
        )
        self.counts["tower_s"] += looked.watch.seconds.get("encode", 0.0)
        self.counts["tower_flops"] += self.backbone.tower_flops(coarse or looked.media, None if coarse else seen)
        return looked


def main(
    data: Annotated[Path, typer.Argument(help="Questions with known answers, as ep evaluate takes them.")],
    model: Annotated[str, typer.Option(help="As ep evaluate takes it.")] = "tiny",
    encode: Annotated[str, typer.Option(help="Ways to encode, comma-separated.")] = "plain,repeats:0.05,repeats:0.1",
    keep: Annotated[str, typer.Option(help="Shares to keep, comma-separated.")] = "1,0.1",
    reducer: Annotated[str, typer.Option(help="Reducers, comma-separated.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
) -> None:
    """Right answers, video cells encoded, tower seconds and operations of each way to encode; JSON, one a line."""
    loaded = load(model)
    rows = read_questions(data, limit)
    read = cache(partial(_read, loaded.frame_size))
    for how in encode.split(","):
        one = Counted(loaded, how)
        runs = evaluate(one, rows, settings(reducers(reducer), keeps(keep)), reader=partial(_sized, read))
        console.out(json.dumps({"encode": str(one.backbone.how), **one.counts, "runs": dict(map(_score, runs))}))


def _sized(read: Callable[[Path, float | None, float | None], Clip], path: Path, options: MediaOptions) -> Pieces:
    return read(path, options.start, options.end).pieces()


def _read(size: Size, path: Path, start: float | None, end: float | None) -> Clip:
    return read_clip(path, start=start, end=end, frame_size=size)


def _score(run: Run) -> tuple[str, dict[str, float | None]]:
    """Right answers, and the share of all tokens that were kept."""
    name = f"{run.setting.reducer}:{run.setting.keep}"
    return name, {"right": run.score.accuracy, "kept": run.tokens.kept_ratio}


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
