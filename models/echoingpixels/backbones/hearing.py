"""The audio tower of Qwen2.5-Omni over sound in which silent windows, 2 s each, are encoded once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..inputs import audio_tokens

SILENCE = -0.25  # scaled log-mel: no band of a silent window is above it, some 75 dB below the loudest a file can hold


def hear(tower: Any, mel: Tensor, once: bool = False) -> tuple[Tensor, Tensor]:
    """Features (Na, D) of log-mel (128, M), and which of them were made anew: (Na,) bool.

    With `once` the first silent window stands in for all others. A last window that is not full is always encoded.
    """
    window = 2 * tower.n_window
    parts = torch.split(mel, window, dim=1)
    silent = torch.tensor([once and part.shape[1] == window and float(part.max()) <= SILENCE for part in parts])
    fresh = ~silent | (silent.cumsum(0) == 1)  # (windows,)
    sound = mel if bool(fresh.all()) else torch.cat([p for p, new in zip(parts, fresh, strict=True) if new], dim=1)
    sound = sound.to(tower.device, tower.conv1.weight.dtype)
    lengths = torch.tensor([sound.shape[1]], device=tower.device)
    made: Tensor = tower(sound, feature_lens=lengths).last_hidden_state
    each = audio_tokens(window)
    tokens = torch.arange(audio_tokens(mel.shape[1]))
    of = (tokens // each).clamp(max=len(parts) - 1)  # the window of each token
    rows = fresh.cumsum(0) - 1
    rows = torch.where(fresh, rows, rows[silent.int().argmax()])  # the windows' places among those encoded
    return made[(rows[of] * each + tokens % each).to(made.device)], fresh[of]
