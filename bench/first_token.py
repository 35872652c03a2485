"""Seconds from a file to the first token, stage by stage: transformers with all tokens, and our reducers with and
without reuse of unchanged windows, or cells dropped inside the vision encoder.

A real clip, and real sizes with random weights: the times are real, the choice of tokens means nothing. Every round
runs all ways; speedups are ratios within a round. transformers gets our frames, log-mel and token ids, which equal its
processor's, and runs its own generate().
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from bench.memory import measured
from bench.stack import random_model
from echoingpixels import load
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.prepare import Inputs, Media, prepare_media
from echoingpixels.media.clip import whole
from echoingpixels.media.sandbox.worker import Worker
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, MediaOptions, check_reuse
from echoingpixels.options.encoder_keep import OFF, EncoderKeep
from echoingpixels.reducers.cs2 import SieveOptions
from echoingpixels.report import BEFORE
from epcli import console

QUESTION = "Which sound plays when the bird falls?"
CPU = torch.device("cpu")
THEIRS = "transformers"
WAYS = "Comma-separated: transformers, or REDUCER[+REUSE][/ENCODER_KEEP], the latter with : for its commas."
Seconds = dict[str, float]


def main(
    clip: Annotated[Path, typer.Argument(help="A clip.")],
    model: Annotated[str, typer.Option(help="tiny, or a known model for its sizes.")] = "qwen2.5-omni-3b",
    start: Annotated[float, typer.Option(help="Start of the part to read, in s.")] = 0.0,
    seconds: Annotated[float, typer.Option(help="Length of the part, at 2 frames a second.")] = 18.5,
    ways: Annotated[str, typer.Option(help=WAYS)] = ("transformers,full,full+0.1,cs2,cs2+0.1"),
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.1,
    layers: Annotated[int, typer.Option(help="Layers of the sieve.")] = 4,
    repeat: Annotated[int, typer.Option(help="Rounds that count.")] = 1,
) -> None:
    """Seconds to the first token and in each stage, speedup over the first way, and peak memory; JSON, a line a way."""
    on = load(model) if model == "tiny" else random_model(model, SieveOptions(layers, "extractive"))
    options = MediaOptions(start=start, end=start + seconds)
    names = ways.split(",")
    with Worker() as worker:
        worker.start()
        runs = {name: _way(on, worker, clip, options, name, keep) for name in names}
        rounds = [{name: _measured(run) for name, run in runs.items()} for _ in range(repeat)]
    for name in names:
        mine, ratios = [one[name] for one in rounds], [one[names[0]]["total"] / one[name]["total"] for one in rounds]
        row = {part: median(one[part] for one in mine) for part in mine[0]}
        speedup = {"speedup": median(ratios), "low": min(ratios), "high": max(ratios)}
        console.out(json.dumps({"way": name, **{part: round(value, 3) for part, value in (row | speedup).items()}}))


def _way(
    on: EchoingPixels, worker: Worker, clip: Path, options: MediaOptions, name: str, keep: float
) -> Callable[[], Seconds]:
    """A function that runs one way and returns its seconds by stage."""
    if name == THEIRS:
        return lambda: _theirs(on, worker, clip, options)
    name, _, keep_inside = name.partition("/")
    reducer, _, reuse = name.partition("+")
    backbone = copy(on.backbone)
    assert isinstance(backbone, QwenOmni)
    backbone.reuse = None if reuse in ("", OFF) else check_reuse(float(reuse))
    backbone.encoder_keep = EncoderKeep.read(keep_inside.replace(":", ",")) if keep_inside else None
    model = EchoingPixels(backbone, on.sieve)
    ask = AskOptions(reducer, 1.0 if reducer == "full" else keep, GenerateOptions(max_new_tokens=1), evidence=False)
    return lambda: _ours(model, worker, clip, options, ask)


def _ours(model: EchoingPixels, worker: Worker, clip: Path, options: MediaOptions, ask: AskOptions) -> Seconds:
    report = model.encode(clip, options, cache=None, reader=worker.stream).ask(QUESTION, ask).report
    spent = {name: report.time_s.as_dict()[name] or 0.0 for name in BEFORE}
    return {**spent, "tokens": report.encoded.pool, "operations": report.flops.reduced / 1e12}


def _theirs(on: EchoingPixels, worker: Worker, clip: Path, options: MediaOptions) -> Seconds:
    """The same file, read by our worker and answered by transformers."""
    began = time.perf_counter()
    read = whole(worker.stream(clip, options, frame_size=on.frame_size))
    decoded = time.perf_counter()
    media = prepare_media(read, on.backbone.resolution)
    inputs = on.prepare(media, QUESTION)
    prepared = time.perf_counter()
    plain_answer(on, media, inputs, max_new_tokens=1)
    answered = time.perf_counter()
    return {
        "decode": decoded - began,
        "prepare": prepared - decoded,
        "encoders and decoder": answered - prepared,
        "tokens": media.span.tokens,
    }


@torch.no_grad()
def plain_answer(on: EchoingPixels, media: Media, inputs: Inputs, **options: Any) -> Any:
    """The result of transformers' own generate(), greedy, about a clip of video and audio at 2 frames a second."""
    backbone: Any = on.backbone
    device, dtype = backbone.device, backbone.dtype
    assert media.patches is not None and media.mel is not None, "the comparison needs video and audio"
    return backbone.thinker.generate(
        input_ids=inputs.input_ids.to(device),
        attention_mask=torch.ones_like(inputs.input_ids, device=device),
        pixel_values_videos=media.patches.to(device, dtype),
        video_grid_thw=torch.tensor([media.grid], device=device),
        video_second_per_grid=torch.tensor([1.0], device=device),
        input_features=media.mel[None].to(device, dtype),
        feature_attention_mask=torch.ones(1, media.mel.shape[1], dtype=torch.long, device=device),
        use_audio_in_video=True,
        do_sample=False,
        **options,
    )


def _measured(run: Callable[[], Seconds]) -> dict[str, float]:
    """The stages of a run, its seconds, and its peak memory above the memory before, in MB."""
    stages, seconds, peak = measured(run)
    return {"total": seconds, **stages, "peak_mb": peak / 1e6}


if __name__ == "__main__":
    typer.run(main)
