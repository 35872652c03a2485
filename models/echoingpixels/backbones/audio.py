"""The audio encoder of Qwen2.5-Omni; silent windows, 2 s each, can be encoded once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..inputs.prepare import audio_tokens
from .kernels import window_bounds

SILENCE = -0.25  # scaled log-mel that no band of a silent window exceeds: about 75 dB below full scale


def encode_audio(encoder: Any, mel: Tensor, silence_once: bool = False) -> tuple[Tensor, Tensor]:
    """Features (Na, D) of log-mel (128, M), and which of them are new, not reused: (Na,) bool.

    With `silence_once` all silent windows reuse the features of the first. A partial last window is always encoded.
    """
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni

    window, device = 2 * encoder.n_window, encoder.device
    parts = torch.split(mel, window, dim=1)
    silent = torch.tensor([silence_once and part.shape[1] == window and float(part.max()) <= SILENCE for part in parts])
    fresh = ~silent | (silent.cumsum(0) == 1)  # (windows,)
    sound = mel if bool(fresh.all()) else torch.cat([p for p, new in zip(parts, fresh, strict=True) if new], dim=1)
    lengths = torch.tensor([sound.shape[1]])  # all indices are computed on the CPU: the host waits for no size
    sound = sound.to(encoder.conv1.weight.dtype)
    padded, chunks = omni.chunk_and_pad_features(sound, lengths, encoder.n_window)
    bounds, longest = window_bounds(encoder, omni.get_audio_cu_seqlens(chunks))
    made: Tensor = encoder(
        feature_lens=lengths,
        padded_feature=padded.to(device, non_blocking=True),
        chunk_lengths=chunks.to(device, non_blocking=True),
        valid_indices=omni.get_valid_indices(chunks).to(device, non_blocking=True),
        pool_indices=omni.get_pool_indices(lengths).to(device, non_blocking=True),
        cu_seqlens=bounds,
        max_seqlen=longest,
    ).last_hidden_state
    each = audio_tokens(window)
    tokens = torch.arange(audio_tokens(mel.shape[1]))
    of = (tokens // each).clamp(max=len(parts) - 1)  # the window of each token
    rows = fresh.cumsum(0) - 1
    rows = torch.where(fresh, rows, rows[silent.int().argmax()])  # the windows' places among those encoded
    return made[(rows[of] * each + tokens % each).to(device, non_blocking=True)], fresh[of]
