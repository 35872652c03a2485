"""Frames resized as the model's processor does it: bicubic with antialiasing."""

from __future__ import annotations

import numpy as np

from .clip import Pixels


def resize(frame: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize one frame (H, W, 3) uint8 to (h, w, 3) uint8."""
    import torch  # takes seconds to import, and the worker process does without it

    if frame.shape[:2] == size:
        return frame
    planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    planes = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())  # torch would start its threads for the copy
