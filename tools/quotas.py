"""The paper's ablations of the joint pool: fixed budgets by modality, and a control that ignores the scores.

Importing this module registers them as reducers (`cs2-random`, `cs2-proportional`, `cs2-half`, `cs2-video`), which
need a sieve. `python -m tools.quotas evaluate …` runs an `ep` command with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from echoingpixels.backbones.base import Backbone
from echoingpixels.inputs.positions import AUDIO
from echoingpixels.inputs.token_stream import Selection, TokenStream, budget, top_k
from echoingpixels.reducers.basic import random
from echoingpixels.reducers.cs2 import Sieve
from echoingpixels.reducers.registry import Reducer, cs2, cs2_flops, register

Share = Callable[[TokenStream, Tensor, float], Tensor]
"""`(stream, scores, keep) -> kept`: scores (B, L) float32 and a bool mask (B, L) that is True for all text."""


def drawn(stream: TokenStream, scores: Tensor, keep: float) -> Tensor:
    """The control: tokens drawn at random from the pool, whatever their scores."""
    return random(stream, keep).keep


def proportional(stream: TokenStream, scores: Tensor, keep: float) -> Tensor:
    """The joint budget in proportion to each modality's tokens; the larger remainder gets the odd token."""
    audio, _ = _halves(stream)
    n, n_audio = stream.pool.sum(1).clamp(min=1), audio.sum(1)  # (B,)
    k = budget(stream.pool, keep)
    odd = 2 * (k * n_audio % n) > n  # at a tie, video
    return _apart(stream, scores, k * n_audio // n + odd, k)


def half(stream: TokenStream, scores: Tensor, keep: float) -> Tensor:
    """Half of the joint budget each, the odd token to video; what one cannot use goes to the other."""
    audio, pictures = (part.sum(1) for part in _halves(stream))  # (B,)
    k = budget(stream.pool, keep)
    k_pictures = (k - (k // 2).minimum(audio)).minimum(pictures)
    return _apart(stream, scores, k - k_pictures, k)


def video(stream: TokenStream, scores: Tensor, keep: float) -> Tensor:
    """All audio, and of the video tokens their own share: video-only reduction as the paper has it.

    The published code drops all audio here and still counts it in the budget.
    """
    _, pictures = _halves(stream)
    return top_k(scores, pictures, budget(pictures, keep)) | (stream.mask & ~pictures)


def _halves(stream: TokenStream) -> tuple[Tensor, Tensor]:
    """Audio tokens, and video and image tokens: two masks (B, L)."""
    audio = stream.mask & (stream.kind == AUDIO)
    return audio, stream.pool & ~audio


def _apart(stream: TokenStream, scores: Tensor, k_audio: Tensor, k: Tensor) -> Tensor:
    """The best k_audio (B,) audio tokens, and the best video and image tokens up to k (B,) in all."""
    audio, pictures = _halves(stream)
    return top_k(scores, audio, k_audio) | top_k(scores, pictures, k - k_audio) | (stream.mask & ~stream.pool)


SHARES: dict[str, Share] = {
    "cs2-random": drawn,
    "cs2-proportional": proportional,
    "cs2-half": half,
    "cs2-video": video,
}


def _choose(share: Share, backbone: Backbone, sieve: Sieve | None, stream: TokenStream, keep: float) -> Selection:
    selection = cs2(backbone, sieve, stream, keep)
    return selection if selection.scores is None else replace(selection, keep=share(stream, selection.scores, keep))


for _name, _share in SHARES.items():
    register(_name, Reducer(partial(_choose, _share), cs2_flops, needs_sieve=True))


if __name__ == "__main__":
    from epcli.main import main

    main()
