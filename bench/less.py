"""What encoding less costs in right answers and saves in the towers, by how much is encoded.

Every clip is read once and kept, so that only what the towers are given differs.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from echoingpixels import load
from echoingpixels.backbones.base import Features
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.clip import Clip
from echoingpixels.evaluate import Run, evaluate, settings
from echoingpixels.inputs import Media
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import MediaOptions, read_encode
from echoingpixels.sets.reading import read_questions
from epcli import console
from epcli.options import keeps, reducers


class Counted(QwenOmni):
    """A backbone that adds up what its towers did."""

    def __init__(self, on: QwenOmni, how: str) -> None:
        vars(self).update(vars(on))
        self.how = read_encode(how)
        self.seconds, self.flops, self.made, self.all = 0.0, 0.0, 0, 0

    def encode(self, media: Media) -> Features:
        """Run both towers, and count."""
        began = time.perf_counter()
        features = super().encode(media)
        self.seconds += time.perf_counter() - began
        self.flops += self.tower_flops(media, features)
        if features.video is not None:
            self.all += len(features.video)
            self.made += len(features.video) if features.seen is None else int(features.seen.sum())
        return features


def main(
    data: Annotated[Path, typer.Argument(help="Questions with known answers, as ep evaluate takes them.")],
    model: Annotated[str, typer.Option(help="As ep evaluate takes it.")] = "tiny",
    encode: Annotated[str, typer.Option(help="Ways to encode, comma-separated.")] = "plain,repeats:0.1,repeats:0.2",
    keep: Annotated[str, typer.Option(help="Shares to keep, comma-separated.")] = "1,0.2,0.1",
    reducer: Annotated[str, typer.Option(help="Reducers, comma-separated.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
) -> None:
    """Right answers, video cells encoded, tower seconds and operations of each way to encode; JSON, one a line."""
    loaded = load(model)
    rows = read_questions(data, limit)
    assert isinstance(loaded.backbone, QwenOmni)
    read = cache(partial(_read, loaded.frame_size))
    for how in encode.split(","):
        backbone = Counted(loaded.backbone, how)
        one = EchoingPixels(backbone, loaded.sieve)
        runs = evaluate(one, rows, settings(reducers(reducer), keeps(keep)), reader=partial(_sized, read))
        console.out(json.dumps({"encode": str(backbone.how), **_counts(backbone), "right": dict(map(_score, runs))}))


def _sized(read: Any, path: Path, options: MediaOptions) -> Clip:
    return read(path, options.start, options.end)  # type: ignore[no-any-return]


def _read(size: Any, path: Path, start: float | None, end: float | None) -> Clip:
    return read_clip(path, replace(MediaOptions(), start=start, end=end, frame_size=size))


def _counts(backbone: Counted) -> dict[str, float]:
    share = backbone.made / backbone.all if backbone.all else 1.0
    return {"cells": round(share, 4), "tower_s": round(backbone.seconds, 2), "tower_flops": backbone.flops}


def _score(run: Run) -> tuple[str, float]:
    return f"{run.setting.reducer}:{run.setting.keep}", round(100 * run.score.accuracy, 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
