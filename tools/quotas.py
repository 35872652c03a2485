"""The paper's ablations of the joint pool: fixed budgets by modality, and a control that ignores the scores.

Importing this module registers them as reducers (`cs2-random`, `cs2-proportional`, `cs2-half`, `cs2-video`), which
need a sieve. `python -m tools.quotas evaluate …` runs an `ep` command with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from echoingpixels.inputs.token_stream import TokenStream, budget
from echoingpixels.reducers.budget import OnePool, Pool
from echoingpixels.reducers.pick import AtRandom, TopK
from echoingpixels.reducers.registry import Reducer, register
from echoingpixels.reducers.score import CS2


@dataclass(frozen=True)
class Proportional(OnePool):
    """The joint budget in proportion to each modality's tokens; the larger remainder gets the odd token."""

    def least(self, n: Tensor, k: Tensor) -> Tensor:
        """See `OnePool.least`."""
        total, n_audio = n.sum(1, keepdim=True).clamp(min=1), n[:, 1:]  # (R, 1)
        odd = 2 * (k * n_audio % total) > total  # at a tie, video
        audio = k * n_audio // total + odd
        return torch.cat([k - audio, audio], 1)


@dataclass(frozen=True)
class Half(OnePool):
    """Half of the joint budget each, the odd token to video; the other modality gets an unused part."""

    def least(self, n: Tensor, k: Tensor) -> Tensor:
        """See `OnePool.least`."""
        video, audio = n[:, :1], n[:, 1:]  # (R, 1)
        of_video = (k - (k // 2).minimum(audio)).minimum(video)
        return torch.cat([of_video, k - of_video], 1)


@dataclass(frozen=True)
class VideoOnly(OnePool):
    """All audio, and of the video tokens their own share: video-only reduction as the paper has it.

    The published code drops all audio here and still counts it in the budget.
    """

    def size(self, pool: Pool, keep: float) -> Tensor:
        """See `OnePool.size`."""
        return budget(pool.mask & ~pool.audio, keep, pool.absent) + pool.audio.sum(1)

    def counts(self, stream: TokenStream, keep: float) -> None:
        """See `OnePool.counts`."""
        return None

    def least(self, n: Tensor, k: Tensor) -> Tensor:
        """See `OnePool.least`."""
        return torch.cat([k - n[:, 1:], n[:, 1:]], 1)


REDUCERS = {
    "cs2-random": Reducer(CS2, AtRandom()),
    "cs2-proportional": Reducer(CS2, TopK(), Proportional()),
    "cs2-half": Reducer(CS2, TopK(), Half()),
    "cs2-video": Reducer(CS2, TopK(), VideoOnly()),
}
for _name, _reducer in REDUCERS.items():
    register(_name, _reducer)


if __name__ == "__main__":
    from epcli.main import main

    main()
