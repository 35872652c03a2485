"""A clip's frames and spectrogram as images for display."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import numpy as np
from PIL import Image

from ..inputs.mel import Mel, mel_frames
from ..inputs.prepare import audio_tokens
from ..media.clip import SAMPLE_RATE, Clip, Pixels

LONG_SIDE = 480  # pixels of a displayed frame
MOST_COLUMNS = 3000  # of the spectrogram
QUALITIES = (75, 50, 25, 10)  # of frames, best first
MOST_PIXELS = 100_000_000  # of all frames in memory: 300 MB
MOST_BYTES = 5_000_000  # of all frames together, about
SAMPLES = 5


def shown_size(height: int, width: int, frames: int = 1, image: bool = False) -> tuple[int, int]:
    """The (height, width) for displaying a frame of that size, never larger; for `read_clip(frame_size=…)`.

    All `frames` together have at most MOST_PIXELS.
    """
    scale = min(1.0, LONG_SIDE / max(height, width), math.sqrt(MOST_PIXELS / (max(1, frames) * height * width)))
    return max(1, round(height * scale)), max(1, round(width * scale))


def spectrogram(clip: Clip) -> tuple[Pixels, float] | None:
    """The model's log-mel as (bins, columns) uint8, high frequencies first, and the seconds it covers.

    One column a token, fewer for a long clip. None if the clip's audio gives no token.
    """
    tokens = 0 if clip.audio is None else audio_tokens(mel_frames(len(clip.audio)))
    if clip.audio is None or tokens < 1:
        return None
    whole, columns = Mel(), min(tokens, MOST_COLUMNS)
    whole.add(clip.audio)
    edges = np.linspace(0, mel_frames(len(clip.audio)), columns + 1).astype(int)
    parts = [part.amax(1).numpy() for part in whole.parts(pairwise(edges.tolist()))]  # (128,) each
    mel = np.stack(parts, axis=1).reshape(-1, 2, columns).mean(1)[::-1]  # (64, columns)
    low, high = float(mel.min()), float(mel.max())
    level = (mel - low) / (high - low) if high > low else np.zeros_like(mel)
    return (255 * level).astype(np.uint8), len(clip.audio) / SAMPLE_RATE


def jpegs(frames: Pixels) -> list[bytes]:
    """Frames (F, H, W, 3) as JPEG files for display, at the best quality that stays near MOST_BYTES.

    The quality is chosen from a few of them.
    """
    few = frames[:: max(1, len(frames) // SAMPLES)]
    for quality in QUALITIES:
        if sum(len(jpeg(_small(frame), quality)) for frame in few) * len(frames) <= MOST_BYTES * len(few):
            break
    return [jpeg(_small(frame), quality) for frame in frames]


def _small(frame: Pixels) -> Pixels:
    height, width = shown_size(*frame.shape[:2])
    return np.asarray(Image.fromarray(frame).resize((width, height)))


def jpeg(pixels: Pixels, quality: int = QUALITIES[0]) -> bytes:
    """An image (H, W, 3) or (H, W) as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()
