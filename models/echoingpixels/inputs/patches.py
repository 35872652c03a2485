"""Frames to the patches of the vision encoder: size, resize, normalise, cut.

The values equal those of transformers' Qwen2-VL video processor, without torchvision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..media.host import resize
from ..options import MIN_PIXELS
from .positions import Span

PATCH = 14  # pixels
MERGE = 2  # patches per side of one token
STEP = 2  # frames in one temporal patch
FACTOR = PATCH * MERGE  # pixels per side of one token
TOKEN = FACTOR**2  # pixels
LEAST_TOKENS = 16  # of a frame pair, for any number of pairs that share a clip's tokens
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 200


@dataclass(frozen=True)
class Resolution:
    """Limits on the pixels of a video frame and of a still image, and the tokens that the frames of a video share.

    Two video frames, or one still image, become one token per 28 x 28 pixels. The defaults are those of Qwen2.5-Omni:
    images up to 1,280 tokens, as in its processor; video from 128 (the minimum of qwen-omni-utils 0.0.9) to 144 tokens
    per frame pair; `clip_tokens` is the total_pixels of that package, 0.9 of 128,000 tokens. None: no such limit.
    """

    video_min: int = 128 * TOKEN  # pixels
    video_max: int = 144 * TOKEN
    image_min: int = 4 * TOKEN
    image_max: int = 1280 * TOKEN
    clip_tokens: int | None = 115_200

    @classmethod
    def plain(cls, max_pixels: int, min_pixels: int = MIN_PIXELS) -> Resolution:
        """The same limits for every frame and image, without a limit on their total."""
        return cls(min_pixels, max_pixels, min_pixels, max_pixels, None)

    def limited(self, max_pixels: int) -> Resolution:
        """With `max_pixels` as the maximum of every frame and image, and of the minimums."""
        video_min, image_min = min(self.video_min, max_pixels), min(self.image_min, max_pixels)
        return Resolution(video_min, max_pixels, image_min, max_pixels, self.clip_tokens)

    def size(self, height: int, width: int, frames: int = 0, image: bool = False) -> tuple[int, int]:
        """The (height, width) at which the model reads each of a clip's `frames`, given the one they are displayed at.

        The result is a fixed point: a second call with it returns it.
        """
        if image:
            return fit(height, width, self.image_min, self.image_max)
        most = self.most(frames)
        return fit(height, width, min(self.video_min, most), most)

    def most(self, frames: int) -> int:
        """The maximum number of pixels of a frame in a video of `frames` frames."""
        if self.clip_tokens is None:
            return self.video_max
        share = self.clip_tokens // max(1, math.ceil(frames / STEP))
        return min(self.video_max, max(LEAST_TOKENS, share) * TOKEN)

    def warnings(self, span: Span) -> tuple[str, ...]:
        """The warnings for a clip with too many frames."""
        if self.clip_tokens is None or span.image:
            return ()
        steps, cells = len(span.times), span.rows * span.columns
        hint = "Use a lower --fps or --max-frames, or --start and --end."
        if steps * cells > self.clip_tokens:
            most = f"the model is made for {self.clip_tokens:,} tokens of video"
            return (f"{steps:,} frame pairs of {cells} tokens are {steps * cells:,}; {most}. {hint}",)
        if self.most(STEP * steps) < self.video_min:
            least = f"the model expects {self.video_min // TOKEN} or more"
            return (f"{steps:,} frame pairs share {self.clip_tokens:,} tokens: {cells} each; {least}. {hint}",)
        return ()


def fit(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The (height, width) in multiples of 28 pixels, close to the given shape, with an area inside the two limits.

    It equals that of transformers' processor where that lies inside the limits; where both limits cannot be met, the
    area is at most `max_pixels`. The result is a fixed point.
    """
    size = (height, width)
    while (fitted := _fit(*size, min_pixels, max_pixels)) != size:
        size = fitted
    return size


def _fit(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """One step towards the limits."""
    if max(height, width) > MAX_ASPECT * min(height, width):  # an extreme aspect ratio is reduced, not refused
        height, width = min(height, MAX_ASPECT * width), min(width, MAX_ASPECT * height)
    h, w = (round(side / FACTOR) * FACTOR for side in (height, width))
    if h * w > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        h, w = (max(FACTOR, math.floor(side / scale / FACTOR) * FACTOR) for side in (height, width))
    elif h * w < max(min_pixels, 1):  # a side below half a token is rounded to 0
        scale = math.sqrt(max(min_pixels, 1) / (height * width))
        h, w = (math.ceil(side * scale / FACTOR) * FACTOR for side in (height, width))
        if h * w > max_pixels:
            h, w = (max(FACTOR, math.floor(side * scale / FACTOR) * FACTOR) for side in (height, width))
    return h, w


def patches(frames: np.ndarray[Any, Any], size: tuple[int, int]) -> tuple[Tensor, tuple[int, int, int]]:
    """Cut frames (F, H, W, 3) uint8 into flattened patches (P, 1176) float32 and their grid (T, H, W) in patches.

    An odd last frame is repeated. The patches of one token are adjacent; tokens are in row-major order.
    """
    pixels = np.stack([resize(frame, size) for frame in frames])  # (F, h, w, 3)
    if len(pixels) % STEP:
        pixels = np.concatenate([pixels, pixels[-1:]])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()  # (F, 3, h, w)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    x.sub_(mean).div_(std)  # in place, as a long clip is large
    t, h, w = x.shape[0] // STEP, size[0] // PATCH, size[1] // PATCH
    x = x.view(t, STEP, 3, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # (t, rows, columns, 2, 2, 3, 2, 14, 14)
    return x.reshape(t * h * w, 3 * STEP * PATCH * PATCH), (t, h, w)


def windows(rows: int, columns: int, side: int) -> Tensor:
    """The window of `side` x `side` cells of each cell in a frame of rows x columns cells: (rows * columns,) int64."""
    down, across = torch.arange(rows) // side, torch.arange(columns) // side
    return (down[:, None] * (int(across[-1]) + 1) + across).flatten()
