"""Frames to the vision tower's patches: size, resize, normalise, cut. Knows nothing about files or time.

The numbers are those of transformers' Qwen2-VL video processor, without torchvision.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .options import MAX_PIXELS, MIN_PIXELS

PATCH = 14  # pixels
MERGE = 2  # patches a side that become one token
STEP = 2  # frames in one temporal patch
FACTOR = PATCH * MERGE  # pixels a side of one token
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 200


def fit(height: int, width: int, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The (height, width) in multiples of 28 pixels, near the given shape, with an area inside the two limits."""
    if max(height, width) > MAX_ASPECT * min(height, width):  # a hair-thin picture is squared off rather than refused
        height, width = min(height, MAX_ASPECT * width), min(width, MAX_ASPECT * height)
    h, w = (round(side / FACTOR) * FACTOR for side in (height, width))
    if h * w > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        h, w = (max(FACTOR, math.floor(side / scale / FACTOR) * FACTOR) for side in (height, width))
    elif h * w < max(min_pixels, 1):  # a side below half a token has been rounded to 0
        scale = math.sqrt(max(min_pixels, 1) / (height * width))
        h, w = (math.ceil(side * scale / FACTOR) * FACTOR for side in (height, width))
    return h, w


def resize(frame: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Resize one frame (H, W, 3) uint8 to (h, w, 3) uint8, bicubic with antialiasing."""
    if frame.shape[:2] == size:
        return frame
    planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    planes = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())  # torch would wake its threads for it


def patches(frames: np.ndarray[Any, Any], size: tuple[int, int]) -> tuple[Tensor, tuple[int, int, int]]:
    """Cut frames (F, H, W, 3) uint8 into flattened patches (P, 1176) float32 and their grid (T, H, W) in patches.

    An odd last frame is repeated. Patches of one token stand together, tokens run row by row.
    """
    pixels = np.stack([resize(frame, size) for frame in frames])  # (F, h, w, 3)
    if len(pixels) % STEP:
        pixels = np.concatenate([pixels, pixels[-1:]])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()  # (F, 3, h, w)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    x.sub_(mean).div_(std)  # in place: of a long clip this is much
    t, h, w = x.shape[0] // STEP, size[0] // PATCH, size[1] // PATCH
    x = x.view(t, STEP, 3, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # (t, rows, columns, 2, 2, 3, 2, 14, 14)
    return x.reshape(t * h * w, 3 * STEP * PATCH * PATCH), (t, h, w)


def windows(rows: int, columns: int, side: int) -> Tensor:
    """The number of each cell's window of `side` x `side` cells, in a frame of so many (rows * columns,): int64."""
    down, across = torch.arange(rows) // side, torch.arange(columns) // side
    return (down[:, None] * (int(across[-1]) + 1) + across).flatten()
