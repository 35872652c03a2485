"""Measures the peak memory of every stage of an answer beside its planned memory: `python -m bench.memory`.

`tiny` is the bundled model on a clip of noise. `3b` is the text stack of Qwen2.5-Omni-3B with random weights and
without encoders (7.4 GB with its sieve), on random features. Runs on a CPU, under Linux. The measurement includes freed
memory that the C library keeps; with MALLOC_MMAP_THRESHOLD_=262144 set, it returns all of it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.stack import random_stack
from echoingpixels.backbones.base import Backbone, Features
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.positions import AUDIO_TOKENS_PER_S, Span
from echoingpixels.inputs.prepare import Media, prepare_media
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.media.clip import SAMPLE_RATE, Clip, Source
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions
from echoingpixels.planning.estimate import Case, Memory, memory_of, resident
from echoingpixels.planning.meta_model import Outline, outline
from echoingpixels.planning.plan import plan
from echoingpixels.report import Stopwatch, peak_memory, reset_peak

CPU = torch.device("cpu")
QUESTION = "Which object appears first?"
NO_PEAK = "The peak of memory cannot be measured here: this needs Linux."
STEPS = 4  # generated tokens
ROWS, COLUMNS = 8, 14  # video tokens of a frame pair of the 3b: 224 x 392 pixels


class Peaks:
    """The peak of each stage, in bytes above the loaded model."""

    def __init__(self) -> None:
        self.base = freed()
        self.bytes: dict[str, int] = {}

    def of(self, stage: str, run: Callable[[], Any]) -> Any:
        """Run a stage."""
        freed()
        if not reset_peak(CPU):
            raise SystemExit(NO_PEAK)
        made = run()
        self.bytes[stage] = peak() - self.base
        return made


def freed(device: torch.device = CPU) -> int:
    """Bytes that tensors hold on CUDA, or the process on a CPU, after freed memory is returned to the system."""
    gc.collect()
    if device.type == "cuda":  # what PyTorch keeps for the next tensors is not counted
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident()


def peak(device: torch.device = CPU) -> int:
    """The peak of the process or device in bytes, since it was reset."""
    found = peak_memory(device)
    if found is None:
        raise SystemExit(NO_PEAK)
    return found


def measured(run: Callable[[], Any], device: torch.device = CPU) -> tuple[Any, float, int]:
    """The result of a run, its seconds, and its peak in bytes above the memory before it; waits for the device."""
    before, watch = freed(device), Stopwatch(device)
    reset_peak(device)
    watch.wait()
    with watch.stage("run"):
        made = run()
        watch.wait()
    return made, watch.seconds["run"], max(0, peak(device) - before)


def noise(seconds: float, side: int) -> Clip:
    """A clip of noise at 2 frames a second."""
    frames = int(2 * seconds)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    audio = random.standard_normal(int(seconds * SAMPLE_RATE), dtype=np.float32)
    return Clip(pixels, np.arange(frames) / 2, audio, seconds, Source("noise", "video", "none", seconds))


def encode(model: EchoingPixels, clip: Clip, peaks: Peaks) -> tuple[Span, Features]:
    """Prepare and encode a clip, of which only the features stay."""
    backbone = model.backbone
    media: Media = peaks.of("prepare", lambda: prepare_media(clip, backbone.resolution))
    video = peaks.of("vision", lambda: encode_video(backbone, media))
    audio = peaks.of("audio", lambda: encode_audio(backbone, media))
    return media.span, replace(video, audio=audio.audio, audio_saliency=audio.audio_saliency)


@torch.no_grad()
def encode_video(backbone: Backbone, media: Media) -> Features:
    """The features of a clip's video alone, in the encoder's chunks."""
    assert media.patches is not None and media.grid is not None
    _, rows, columns = media.grid
    vision = backbone.vision_encoder()
    parts = torch.split(media.patches, backbone.steps_at_once(rows, columns) * rows * columns)
    return Features.of([vision.encode(part, rows, columns) for part in parts], [])


@torch.no_grad()
def encode_audio(backbone: Backbone, media: Media) -> Features:
    """The features of a clip's audio alone."""
    mel = media.mel
    assert mel is not None
    return Features.of([], [backbone.encode_audio(mel[:, a:b]) for a, b in backbone.mel_cuts(mel.shape[1])])


@torch.no_grad()
def answer(model: EchoingPixels, span: Span, features: Features, options: AskOptions, peaks: Peaks) -> None:
    """Select, prefill and generate, as `EchoingPixels.ask` does."""
    backbone, inputs = model.backbone, model.prepare(Media(span), QUESTION)

    def select() -> TokenStream:
        stream = backbone.embed(inputs, (features,))
        return stream.take(model.select(stream, options.reducer, options.keep))

    kept, cache = peaks.of("select", select), backbone.new_cache()
    peaks.of("prefill", lambda: backbone.logits(backbone.hidden(kept, cache)[:, -1]))

    def generate() -> None:
        mask = kept.mask
        for step in range(options.generate.max_new_tokens):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            backbone.decode(torch.tensor([[1]]), kept.next_position[:, None] + step, mask, cache)

    peaks.of("generate", generate)


def options_of(reducer: str, keep: float) -> AskOptions:
    """A short answer."""
    return AskOptions(reducer, keep, GenerateOptions(max_new_tokens=STEPS), evidence=False)


def tiny(seconds: float, side: int, keep: float, reducer: str) -> Iterator[dict[str, Any]]:
    """The bundled model."""
    options = options_of(reducer, keep)
    model = load("tiny", device="cpu", max_pixels=side**2)
    with torch.no_grad():  # modules that are imported at the first use belong to no stage
        model.ask(noise(2.0, side), QUESTION, reducer=reducer, keep=keep)
    peaks, clip = Peaks(), noise(seconds, side)
    with torch.no_grad():
        span, features = encode(model, clip, peaks)
    answer(model, span, features, options, peaks)
    planned = plan(outline("tiny", LoadOptions(device="cpu", max_pixels=side**2)), clip, QUESTION, options).memory
    yield {"model": "tiny", "reducer": reducer, "keep": keep, "stages": beside(planned, peaks)}


def three_b(lengths: list[int], keeps: list[float], reducer: str) -> Iterator[dict[str, Any]]:
    """The 3B's text stack: select and prefill, of all tokens and of some."""
    model = random_stack("qwen2.5-omni-3b")
    answer(model, *random_clip(model, 2), options_of(reducer, 0.5), Peaks())  # imports and caches belong to no stage
    for tokens in lengths:
        for keep in keeps:
            options, peaks = options_of("full" if keep == 1 else reducer, keep), Peaks()
            span, features = random_clip(model, tokens // (ROWS * COLUMNS + AUDIO_TOKENS_PER_S))
            answer(model, span, features, options, peaks)
            case = Case(Outline(model, CPU, own_sieve=True), Media(span), QUESTION, options)
            yield {
                "model": "3b",
                "reducer": options.reducer,
                "keep": keep,
                "tokens": case.stream.kind.numel(),
                "stages": beside(memory_of(case), peaks),
            }


def random_clip(model: EchoingPixels, steps: int) -> tuple[Span, Features]:
    """Random features of a clip with a temporal step a second."""
    span = Span(tuple(map(float, range(steps))), ROWS, COLUMNS, AUDIO_TOKENS_PER_S * steps)
    counts = (steps * ROWS * COLUMNS, span.audio_tokens)
    video, audio = (torch.randn(n, model.backbone.shape.width, dtype=model.backbone.dtype) for n in counts)
    return span, Features(video, audio)


def beside(planned: Memory, peaks: Peaks) -> dict[str, dict[str, float]]:
    """Planned and measured bytes of every stage that ran, and their ratio."""
    stages = {stage.name: stage.beside_weights for stage in planned.stages}
    return {
        name: {"planned": stages[name], "measured": n, "ratio": stages[name] / n} for name, n in peaks.bytes.items()
    }


def main() -> None:
    """Print one line a stage, or with --json one object a setting."""
    parse = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parse.add_argument("--model", choices=["tiny", "3b"], default="tiny")
    parse.add_argument("--seconds", type=float, default=16.0, help="of the clip for tiny; at most one vision chunk")
    parse.add_argument("--side", type=int, default=224, help="of its frames, in pixels")
    parse.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096], help="for 3b, rounded to seconds")
    parse.add_argument("--keep", type=float, nargs="+", default=[1.0, 0.1])
    parse.add_argument("--reducer", default="cs2")
    parse.add_argument("--json", action="store_true")
    given = parse.parse_args()
    if given.model == "3b":
        rows = three_b(given.tokens, given.keep, given.reducer)
    else:
        rows = (row for keep in given.keep for row in tiny(given.seconds, given.side, keep, given.reducer))
    for row in rows:
        if given.json:
            print(json.dumps(row), flush=True)
            continue
        print(f"{row['model']}, {row.get('tokens', '')} {row['reducer']}, keep {row['keep']:g}")
        for name, n in row["stages"].items():
            print(f"  {name:9} {n['planned'] / 1e6:8.1f} MB, {n['measured'] / 1e6:8.1f} measured: {n['ratio']:.2f}")


if __name__ == "__main__":
    main()
