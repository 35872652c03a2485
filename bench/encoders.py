"""Time of the encoders at real sizes over a real clip: vision with reuse of unchanged windows or cells dropped inside.

Random weights: times and shares are real, features are not. Every round runs all thresholds and encoder keeps, and the
audio encoder; speedups are ratios of processor time within a round, over the first way.
"""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

from bench.stack import random_encoders
from echoingpixels.backbones.base import Features
from echoingpixels.backbones.encoders import TemporalReuse, attending
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.features.encode import encode
from echoingpixels.inputs.patches import patches
from echoingpixels.inputs.positions import Span
from echoingpixels.inputs.prepare import Media
from echoingpixels.media import read_clip
from echoingpixels.media.clip import Clip
from echoingpixels.options import LoadOptions, MediaOptions, Reuse, check_reuse, reuse_name
from echoingpixels.options.encoder_keep import OFF, EncoderKeep
from echoingpixels.planning.meta_model import outline
from echoingpixels.report import Stopwatch
from epcli import console


def main(
    clip: Annotated[Path, typer.Argument(help="A clip.")],
    model: Annotated[str, typer.Option(help="A known model, for its encoder's sizes.")] = "qwen2.5-omni-3b",
    start: Annotated[float, typer.Option(help="Start of the part to encode, in s.")] = 0.0,
    seconds: Annotated[float, typer.Option(help="Length of the part, at 2 frames a second.")] = 18.5,
    reuse: Annotated[str, typer.Option(help="Thresholds or off, comma-separated.")] = "off,0.1",
    encoder_keep: Annotated[list[str] | None, typer.Option(help="As of ep; repeatable. Default: off.")] = None,
    repeat: Annotated[int, typer.Option(help="Rounds.")] = 1,
    count: Annotated[
        bool, typer.Option("--count", help="Only count changed cells and operations; encode nothing.")
    ] = False,
) -> None:
    """Tokens encoded, processor seconds and speedup of each way, and of the audio encoder; JSON, one a line."""
    thresholds = [None if one == OFF else check_reuse(float(one)) for one in reuse.split(",")]
    keeps = [None if one == OFF else EncoderKeep.read(one) for one in encoder_keep or (OFF,)]
    on = outline(model, LoadOptions(device="cpu")).model if count else random_encoders(model)
    assert isinstance(on.backbone, QwenOmni)
    film = read_clip(clip, MediaOptions(start=start, end=start + seconds), frame_size=on.frame_size)
    video, sound = replace(film, audio=None), replace(film, frames=film.frames[:0], times=film.times[:0])
    if count:
        for threshold, keep in product(thresholds, keeps):
            on.backbone.encoder_keep = keep
            console.out_json({**_named(threshold, keep), **_counted(on.backbone, video, threshold)})
        return
    ways = [(_named(*way), video, way) for way in product(thresholds, keeps)]
    if film.audio is not None:
        ways.append(({"encoder": "audio"}, sound, (None, None)))
    rounds = [[_measured(on.backbone, part, *way) for _, part, way in ways] for _ in range(repeat)]
    for i, (name, _, _) in enumerate(ways):
        times = [one[i][0] for one in rounds]
        ratios = [one[0][0] / one[i][0] for one in rounds]
        _, tokens, of, flops = rounds[0][i]
        row = {**name, "tokens": tokens, "of": of, "flops": flops, "cpu_s": median(times)}
        console.out_json({**row, "speedup": median(ratios), "low": min(ratios), "high": max(ratios)})


def _named(reuse: Reuse, keep: EncoderKeep | None) -> dict[str, str]:
    return {"reuse": reuse_name(reuse), "encoder_keep": OFF if keep is None else str(keep)}


def _counted(on: QwenOmni, clip: Clip, reuse: Reuse) -> dict[str, float]:
    """Video tokens whose cells change, all of them, and floating-point operations of the vision encoder."""
    parts, grid = patches(clip.frames, clip.frames.shape[1:3])
    changed = TemporalReuse(reuse, attending(on.thinker.model.visual)).changed(parts, grid)
    flops = on.encoder_flops(Media(Span(), None, grid), Features(None, None, changed.flatten()))
    return {"tokens": int(changed.sum()), "of": changed.numel(), "flops": flops}


@torch.no_grad()
def _measured(backbone: QwenOmni, clip: Clip, reuse: Reuse, keep: EncoderKeep | None) -> tuple[float, int, int, float]:
    """Processor seconds from a clip to features, tokens encoded, tokens of the clip, and floating-point operations."""
    on = copy(backbone)
    on.reuse, on.encoder_keep = reuse, keep
    began = time.process_time()
    encoded = encode(on, clip.pieces(), Stopwatch(torch.device("cpu")))
    spent, features = time.process_time() - began, encoded.features
    return spent, features.encoded(False).pool, encoded.media.span.tokens, on.encoder_flops(encoded.media, features)


if __name__ == "__main__":
    typer.run(main)
