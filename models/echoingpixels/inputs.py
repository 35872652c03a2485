"""A clip and a question as the model reads them: patches, log-mel, ids and positions. Knows nothing about weights.

Numbers equal transformers' own Qwen2.5-Omni processor wherever the frame rate is constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from . import frames as F
from .clip import SAMPLE_RATE, Clip
from .errors import MediaError
from .options import MAX_PIXELS, MIN_PIXELS
from .positions import Layout, Placed, Span, place

SYSTEM = "You are a helpful assistant."
MEL_BINS = 128
MEL_HOP = 160  # samples
MEL_MARGIN = 480  # samples of silence after the sound: what the processor's padding shows the last mel frames


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, add_special_tokens: bool = ..., split_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


@dataclass(frozen=True)
class Media:
    """One clip, sound or image as the two towers read it."""

    span: Span
    patches: Tensor | None = None  # (P, 1176) float32
    grid: tuple[int, int, int] | None = None  # patches (T, H, W)
    mel: Tensor | None = None  # (128, M) float32


@dataclass(frozen=True)
class Inputs:
    """One prompt. B is 1 here; streams are padded into batches after embedding."""

    input_ids: Tensor  # (1, L) int64
    positions: Tensor  # (3, 1, L) int64
    kind: Tensor  # (1, L) int64, an index into KINDS
    time: Tensor  # (1, L) float32 s, nan for text
    cell: Tensor  # (1, L, 2) int64
    media: tuple[Media, ...]  # in order of appearance
    labels: Tensor | None = None  # (1, L) int64, -100 outside the answer


def audio_tokens(mel_frames: int) -> int:
    """Audio tokens made of so many mel frames (100 a second): 25 a second."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


def log_mel(waveform: np.ndarray[Any, Any]) -> Tensor:
    """Whisper's log-mel (128, M) float32 of a 16 kHz waveform (S,) float32, 100 frames a second, of any length."""
    extract = _extractor()
    padded = np.pad(waveform, (0, MEL_MARGIN))
    mel = extract(padded, sampling_rate=SAMPLE_RATE, padding=False, truncation=False, return_tensors="pt")
    features: Tensor = mel["input_features"][0]
    return features[:, : mel_frames(len(waveform))]


@cache
def _extractor() -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=MEL_BINS, hop_length=MEL_HOP)


def prepare_media(clip: Clip, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> Media:
    """Patches and log-mel of a clip."""
    span = span_of(clip, min_pixels, max_pixels)
    patches, grid, mel = None, None, None
    if span.times:
        patches, grid = F.patches(clip.frames, (span.rows * F.FACTOR, span.columns * F.FACTOR))
    if clip.audio is not None and span.audio_tokens:
        mel = log_mel(clip.audio)
    return Media(span, patches, grid, mel)


def span_of(clip: Clip, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> Span:
    """The tokens that a clip becomes, from its sizes alone. MediaError where it becomes none."""
    rows = columns = 0
    if len(clip.frames):
        height, width = clip.frames.shape[1:3]
        rows, columns = (side // F.FACTOR for side in F.fit(height, width, min_pixels, max_pixels))
    heard = 0 if clip.audio is None else audio_tokens(mel_frames(len(clip.audio)))
    span = Span(tuple(clip.times[:: F.STEP].tolist()), rows, columns, heard, clip.source.kind == "image")
    if not span.tokens:
        sound = "its sound is digitally silent" if clip.source.silent else f"only {clip.duration:.3g} s of sound"
        what = f"{clip.source.path} holds nothing to answer from: no picture, and {sound}."
        raise MediaError(what, "Give a longer part of it, or another file.")
    return span


def mel_frames(samples: int) -> int:
    """Mel frames (100 a second) of so many samples at 16 kHz."""
    return -(-samples // MEL_HOP)


def prepare_prompt(
    media: Media, question: str, tokenizer: Tokenizer, layout: Layout, system: str = SYSTEM, answer: str | None = None
) -> Inputs:
    """The chat prompt around one clip; with `answer`, the answer follows and is labelled for training."""
    before, after, said = chat_ids(tokenizer, question, answer, system)
    placed = place([before, media.span, after, said], layout)
    labels = torch.cat([torch.full((placed.ids.numel() - len(said),), -100), torch.tensor(said, dtype=torch.long)])
    return as_inputs(placed, (media,), None if answer is None else labels)


def chat_ids(
    tokenizer: Tokenizer, question: str, answer: str | None = None, system: str = SYSTEM
) -> tuple[list[int], list[int], list[int]]:
    """Token ids before the clip, after it up to the answer, and of the answer with its end mark."""

    def marked(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def plain(text: str) -> list[int]:  # what users write can never become a special token
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    before = marked("<|im_start|>") + plain(f"system\n{system}") + marked("<|im_end|>\n<|im_start|>user\n")
    after = plain(question) + marked("<|im_end|>\n<|im_start|>assistant\n")
    return before, after, [] if answer is None else plain(answer) + marked("<|im_end|>")


def as_inputs(placed: Placed, media: tuple[Media, ...], labels: Tensor | None = None) -> Inputs:
    """Give a laid-out prompt, and its labels (L,), their batch dimension."""
    return Inputs(
        input_ids=placed.ids[None],
        positions=placed.positions[:, None],
        kind=placed.kind[None],
        time=placed.time[None],
        cell=placed.cell[None],
        media=media,
        labels=None if labels is None else labels[None],
    )
