"""Peak memory of every stage of an answer, measured and planned: `python -m bench.memory`.

`tiny` is the bundled model on a generated clip. `3b` is the decoder of Qwen2.5-Omni-3B with random weights and without
encoders (7.4 GB with its sieve), on streams of 2,048 and 4,096 tokens. Runs on a CPU, under Linux. Memory that is freed
but held by the C library counts as used; with MALLOC_MMAP_THRESHOLD_=262144 set, the library returns all of it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from bench.stack import WORDS, random_stack, random_stream
from echoingpixels.backbones.base import Features, concatenated
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.positions import Span
from echoingpixels.inputs.prepare import Media, prepare_media
from echoingpixels.inputs.stream import Stream
from echoingpixels.media.clip import SAMPLE_RATE, Clip, Source
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions
from echoingpixels.planning.device_memory import resident
from echoingpixels.planning.estimate import Memory, Sizes, stages
from echoingpixels.planning.meta_model import outline
from echoingpixels.planning.plan import plan
from echoingpixels.report import peak_memory, reset_peak

CPU = torch.device("cpu")
QUESTION = "Which object appears first?"
STEPS = 4  # tokens that are generated


class Peaks:
    """The peak of each stage, in bytes above the loaded model."""

    def __init__(self) -> None:
        self.base = released()
        self.bytes: dict[str, int] = {}

    def of(self, stage: str, run: Callable[[], Any]) -> Any:
        """Run a stage."""
        released()
        if not reset_peak(CPU):
            raise SystemExit("The peak cannot be reset here: this needs Linux.")
        made = run()
        self.bytes[stage] = peak_memory(CPU) - self.base
        return made


def released() -> int:
    """Resident bytes of the process after it has returned its freed memory."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident()


def measured(run: Callable[[], Any]) -> tuple[Any, float, int]:
    """The result of a run, its seconds, and its peak above the memory before, in bytes."""
    before = released()
    reset_peak(CPU)
    began = time.perf_counter()
    made = run()
    return made, time.perf_counter() - began, max(0, peak_memory(CPU) - before)


def noise(seconds: float, side: int) -> Clip:
    """A clip of noise at 2 frames a second."""
    frames = int(2 * seconds)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    audio = random.standard_normal(int(seconds * SAMPLE_RATE), dtype=np.float32)
    return Clip(pixels, np.arange(frames) / 2, audio, seconds, Source("noise", "video", "none", seconds))


@torch.no_grad()
def answer(model: EchoingPixels, clip: Clip, options: AskOptions, peaks: Peaks) -> None:
    """Answer stage by stage, as `EchoingPixels.ask` does."""
    span, features = encoded(model, clip, peaks)
    inputs = model.prepare(Media(span), QUESTION)
    kept = peaks.of("select", lambda: choose(model, model.backbone.embed(inputs, (features,)), options))
    follow(model, kept, options, peaks)


def encoded(model: EchoingPixels, clip: Clip, peaks: Peaks) -> tuple[Span, Features]:
    """Prepare and encode a clip, part by part as `features.encode` does; only the features stay."""
    backbone = model.backbone
    media: Media = peaks.of("prepare", lambda: prepare_media(clip, backbone.resolution))
    assert media.patches is not None and media.grid is not None and media.mel is not None
    _, rows, columns = media.grid
    parts = torch.split(media.patches, backbone.steps_at_once(rows, columns) * rows * columns)
    vision, cuts, mel = backbone.vision_encoder(), backbone.mel_cuts(media.mel.shape[1]), media.mel
    video, _ = peaks.of("vision", lambda: concatenated([vision.encode(part, rows, columns) for part in parts]))
    audio, _ = peaks.of("audio", lambda: concatenated([backbone.encode_audio(mel[:, a:b]) for a, b in cuts]))
    return media.span, Features(video, audio)


def choose(model: EchoingPixels, stream: Stream, options: AskOptions) -> Stream:
    """Select and take."""
    return stream.take(model.select(stream, options.reducer, options.keep))


@torch.no_grad()
def follow(model: EchoingPixels, kept: Stream, options: AskOptions, peaks: Peaks) -> None:
    """Prefill, and generate further tokens."""
    backbone, cache = model.backbone, model.backbone.new_cache()
    peaks.of("prefill", lambda: backbone.logits(backbone.hidden(kept, cache)[:, -1]))

    def generate() -> None:
        mask = kept.mask
        for step in range(options.generate.max_new_tokens):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            backbone.decode(torch.tensor([[1]]), kept.next_position[:, None] + step, mask, cache)

    peaks.of("generate", generate)


def tiny(seconds: float, side: int, keep: float, reducer: str) -> Iterator[dict[str, Any]]:
    """The bundled model."""
    options = AskOptions(reducer, keep, GenerateOptions(max_new_tokens=STEPS))
    model = load("tiny", device="cpu", max_pixels=side**2)
    with torch.no_grad():  # libraries loaded at first use belong to no stage
        model.ask(noise(2.0, side), QUESTION, reducer=reducer, keep=keep)
    peaks = Peaks()
    clip = noise(seconds, side)
    answer(model, clip, options, peaks)
    planned = plan(outline("tiny", LoadOptions(device="cpu", max_pixels=side**2)), clip, QUESTION, options).memory
    yield {"model": "tiny", "reducer": reducer, "keep": keep, "stages": beside(planned, peaks)}


def beside(planned: Memory, peaks: Peaks) -> dict[str, dict[str, float]]:
    """Planned and measured bytes of every stage that ran, and their ratio."""
    stages = {stage.name: stage.beside_weights for stage in planned.stages}
    return {
        name: {"planned": stages[name], "measured": peak, "ratio": stages[name] / peak}
        for name, peak in peaks.bytes.items()
    }


def three_b(lengths: list[int], keeps: list[float], reducer: str) -> Iterator[dict[str, Any]]:
    """The decoder of the 3B: select, prefill and generate."""
    model = random_stack("qwen2.5-omni-3b")
    backbone = model.backbone
    every = [*backbone.parameters(), *(model.sieve.parameters() if model.sieve else ())]
    weights = sum(weight.nbytes for weight in every if weight.device == CPU)  # the encoders have none
    choose(model, random_stream(model, 2 * WORDS), AskOptions(reducer, 0.5))
    for tokens in lengths:
        for keep in keeps:
            options = AskOptions("full" if keep == 1 else reducer, keep, GenerateOptions(max_new_tokens=STEPS))
            peaks = Peaks()
            kept = peaks.of("select", lambda: choose(model, random_stream(model, tokens), options))  # noqa: B023
            n = kept.kind.numel()
            follow(model, kept, options, peaks)
            sizes = Sizes(
                shape=backbone.shape,
                vision=backbone.vision_shape,
                hearing=backbone.audio_shape,
                weights=weights,
                sieve=0,
                value=2,
                quant="none",
                cuda=False,
                clip=0,
                patches=0,
                step=0,
                mel=0,
                seen=0,
                heard=0,
                tokens=tokens,
                kept=n,
                said=STEPS,
                reducer=options.reducer,
                words=WORDS,
            )
            planned = Memory(weights, 0, tuple(stages(sizes)))
            yield {
                "model": "3b",
                "reducer": options.reducer,
                "keep": keep,
                "tokens": tokens,
                "weights": {"planned": weights, "measured": peaks.base - PROGRAM},
                "stages": beside(planned, peaks),
            }


def main() -> None:
    """Print one line a stage, or with --json one object a setting."""
    parse = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parse.add_argument("--model", choices=["tiny", "3b"], default="tiny")
    parse.add_argument(
        "--seconds", type=float, default=16.0, help="of the clip for tiny; at most one chunk of the vision encoder"
    )
    parse.add_argument("--side", type=int, default=224, help="of its frames, in pixels")
    parse.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096], help="for 3b")
    parse.add_argument("--keep", type=float, nargs="+", default=[1.0, 0.1])
    parse.add_argument("--reducer", default="cs2")
    parse.add_argument("--json", action="store_true")
    given = parse.parse_args()
    if given.model == "3b":
        found = three_b(given.tokens, given.keep, given.reducer)
    else:
        found = (row for keep in given.keep for row in tiny(given.seconds, given.side, keep, given.reducer))
    for row in found:
        if given.json:
            print(json.dumps(row), flush=True)
            continue
        print(f"{row['model']}, {row.get('tokens', '')} {row['reducer']}, keep {row['keep']:g}")
        if "weights" in row:
            print(
                f"  weights   {row['weights']['planned'] / 1e6:8.1f} MB, {row['weights']['measured'] / 1e6:8.1f} found"
            )
        for name, n in row["stages"].items():
            print(f"  {name:9} {n['planned'] / 1e6:8.1f} MB, {n['measured'] / 1e6:8.1f} measured: {n['ratio']:.2f}")


PROGRAM = released()

if __name__ == "__main__":
    main()
