"""Whisper's log-mel of sound of any length, as it comes. Knows nothing about tokens.

The numbers are those of transformers' WhisperFeatureExtractor, which takes the whole sound at once: each mel frame is
of the 400 samples around its own, and only the loudest of all says what is too quiet to count.
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
MEL_RANGE = 8.0  # powers of ten below the loudest that count
BLOCK = 3000  # mel frames that are made at once


class Mel:
    """Takes samples in order, and gives their log-mel once the last one is there: it is scaled by the loudest.

    What is not yet scaled waits: 51 kB a second of sound.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._waiting: list[np.ndarray[Any, Any]] = []  # samples from half a window before the next mel frame on
        self._held = 0  # samples in there
        self._blocks: list[Tensor] = []  # (128, M) float32 each, before scaling
        self._made = 0  # mel frames in there
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
        """No more samples: the log-mel (128, M) float32, 100 mel frames a second, cut from first to last, in order.

        It is given once: what was given is forgotten.
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
        self._wait(np.zeros(2 * MEL_WINDOW, np.float32))  # what follows the sound is silence
        left = mel_frames(self.samples) - self._made
        if left > 0:
            self._make(self._start()[: (left - 1) * MEL_HOP + MEL_WINDOW])
        self._waiting, self._held = [], 0

    def _wait(self, samples: np.ndarray[Any, Any]) -> None:
        self._waiting.append(samples)
        self._held += len(samples)

    def _start(self) -> np.ndarray[Any, Any]:
        """What waits, in one piece; before the first mel frame, what begins the sound is mirrored."""
        held = np.concatenate(self._waiting)
        return held if self._made else np.concatenate([held[MEL_WINDOW // 2 : 0 : -1], held])

    def _make(self, samples: np.ndarray[Any, Any]) -> None:
        """The mel frames of these samples, from window to window."""
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
    """Whisper's log-mel (128, M) float32 of a 16 kHz waveform (S,) float32, 100 frames a second, of any length."""
    mel = Mel()
    mel.add(waveform)
    (whole,) = mel.parts([(0, mel_frames(len(waveform)))])
    return whole


def mel_frames(samples: int) -> int:
    """Mel frames (100 a second) of so many samples at 16 kHz."""
    return -(-samples // MEL_HOP)
