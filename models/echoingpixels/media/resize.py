"""Frames resized as the model's processor does it: bicubic with antialiasing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def resize(frame: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Resize one frame (H, W, 3) uint8 to (h, w, 3) uint8, bicubic with antialiasing."""
    if frame.shape[:2] == size:
        return frame
    planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    planes = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())  # torch would wake its threads for it
