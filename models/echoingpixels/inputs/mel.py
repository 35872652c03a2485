"""Whisper's log-mel spectrogram of audio of any length, computed block by block.

The values equal those of transformers' WhisperFeatureExtractor, which takes the whole waveform at once: each mel frame
depends on the 400 samples around it, and only the clipping of quiet values depends on the loudest frame of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..media.clip import SAMPLE_RATE

MEL_BINS = 128
MEL_HOP = 160  # samples
MEL_WINDOW = 400  # samples
MEL_RANGE = 8.0  # powers of ten below the loudest value; quieter values are clipped
BLOCK = 3000  # mel frames computed at once


class Mel:
    """Takes samples in order and returns their log-mel after the last one, as the scale depends on the loudest frame.

    Until then it holds the unscaled values: 51 kB per second of audio.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._waiting: list[np.ndarray[Any, Any]] = []  # samples, from half a window before the next mel frame
        self._held = 0  # number of waiting samples
        self._blocks: list[Tensor] = []  # (128, M) float32 each, before scaling
        self._made = 0  # mel frames in the blocks
        self._top = -torch.inf

    def add(self, samples: np.ndarray[Any, Any]) -> None:
        """Take the next samples (S,) float32 at 16 kHz."""
        if not len(samples):
            return
        self.samples += len(samples)
        self._wait(samples)
        block = BLOCK * MEL_HOP
        if self._held < block + MEL_WINDOW:
            return
        held = self._start()
        while len(held) >= block + MEL_WINDOW:
            self._make(held[: block + MEL_WINDOW - MEL_HOP])
            held = held[block:]
        self._waiting, self._held = [held.copy()], len(held)

    def parts(self, cuts: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """No more samples: the log-mel (128, M) float32, 100 mel frames/s, of each cut (first, last), in order.

        Each part is yielded once and then freed.
        """
        self._finish()
        begin, held = 0, torch.empty(MEL_BINS, 0)
        for first, last in cuts:
            while begin + held.shape[1] < last:
                held = torch.cat([held, self._blocks.pop(0)], dim=1)
            part = held[:, first - begin : last - begin]
            yield (part.clamp(min=self._top - MEL_RANGE) + 4.0) / 4.0
            begin, held = last, held[:, last - begin :]

    def _finish(self) -> None:
        self._wait(np.zeros(2 * MEL_WINDOW, np.float32))  # silence follows the audio
        left = mel_frames(self.samples) - self._made
        if left > 0:
            self._make(self._start()[: (left - 1) * MEL_HOP + MEL_WINDOW])
        self._waiting, self._held = [], 0

    def _wait(self, samples: np.ndarray[Any, Any]) -> None:
        self._waiting.append(samples)
        self._held += len(samples)

    def _start(self) -> np.ndarray[Any, Any]:
        """The waiting samples; before the first mel frame, preceded by the mirrored beginning of the audio."""
        held = np.concatenate(self._waiting)
        return held if self._made else np.concatenate([held[MEL_WINDOW // 2 : 0 : -1], held])

    def _make(self, samples: np.ndarray[Any, Any]) -> None:
        """Append the mel frames of all windows in these samples."""
        waves = torch.from_numpy(samples)
        window = torch.hann_window(MEL_WINDOW)
        waves = torch.stft(waves, MEL_WINDOW, MEL_HOP, window=window, center=False, return_complex=True)
        made = (_filters() @ waves.abs() ** 2).clamp(min=1e-10).log10()
        self._blocks.append(made)
        self._made += made.shape[1]
        self._top = max(self._top, float(made.max()))


@cache
def _filters() -> Tensor:
    """Whisper's mel filters (128, 201) float32."""
    from transformers import WhisperFeatureExtractor

    made = WhisperFeatureExtractor(feature_size=MEL_BINS, hop_length=MEL_HOP, sampling_rate=SAMPLE_RATE)
    return torch.from_numpy(made.mel_filters).to(torch.float32).T


def log_mel(waveform: np.ndarray[Any, Any]) -> Tensor:
    """Whisper's log-mel (128, M) float32 of a 16 kHz waveform (S,) float32, 100 frames/s, of any length."""
    mel = Mel()
    mel.add(waveform)
    (whole,) = mel.parts([(0, mel_frames(len(waveform)))])
    return whole


def mel_frames(samples: int) -> int:
    """Number of mel frames (100 per s) of a number of samples at 16 kHz."""
    return -(-samples // MEL_HOP)
