"""What the budget is shared by, once a sieve has rated the tokens: one pool, or a fixed part for each modality.

Each is `(stream, scores, keep) -> kept`: scores (B, L) float32 and a bool mask (B, L) that is True for all text.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..inputs.positions import AUDIO
from ..inputs.stream import Stream, budget, top_k
from ..options import SIEVED
from .basic import by_scores, random

Share = Callable[[Stream, Tensor, float], Tensor]


def joint(stream: Stream, scores: Tensor, keep: float) -> Tensor:
    """One pool, as published."""
    return by_scores(stream, scores, keep).keep


def drawn(stream: Stream, scores: Tensor, keep: float) -> Tensor:
    """The control: the scores are not looked at."""
    return random(stream, keep).keep


def proportional(stream: Stream, scores: Tensor, keep: float) -> Tensor:
    """The joint budget in proportion to what there is of each modality; the larger remainder gets the odd token."""
    heard, _ = _halves(stream)
    n, n_heard = stream.pool.sum(1).clamp(min=1), heard.sum(1)  # (B,)
    k = budget(stream.pool, keep)
    odd = 2 * (k * n_heard % n) > n  # at a tie, video
    return _apart(stream, scores, k * n_heard // n + odd, k)


def half(stream: Stream, scores: Tensor, keep: float) -> Tensor:
    """Half of the joint budget each, the odd token to video; what one cannot use goes to the other."""
    heard, seen = (part.sum(1) for part in _halves(stream))  # (B,)
    k = budget(stream.pool, keep)
    k_seen = (k - (k // 2).minimum(heard)).minimum(seen)
    return _apart(stream, scores, k - k_seen, k)


def video(stream: Stream, scores: Tensor, keep: float) -> Tensor:
    """All audio, and of the video tokens their own share: video-only reduction as the paper has it.

    The published code drops all audio here and still counts it in the budget.
    """
    _, seen = _halves(stream)
    return top_k(scores, seen, budget(seen, keep)) | (stream.mask & ~seen)


def _halves(stream: Stream) -> tuple[Tensor, Tensor]:
    """Audio tokens, and video and image tokens: two masks (B, L)."""
    heard = stream.mask & (stream.kind == AUDIO)
    return heard, stream.pool & ~heard


def _apart(stream: Stream, scores: Tensor, k_heard: Tensor, k: Tensor) -> Tensor:
    """The best k_heard (B,) audio tokens, and the best of the rest up to k (B,) in all."""
    heard, seen = _halves(stream)
    return top_k(scores, heard, k_heard) | top_k(scores, seen, k - k_heard) | (stream.mask & ~stream.pool)


SHARES: dict[str, Share] = {
    "cs2": joint,
    "cs2-random": drawn,
    "cs2-proportional": proportional,
    "cs2-half": half,
    "cs2-video": video,
}
assert tuple(SHARES) == SIEVED, f"options.py names {SIEVED}"
