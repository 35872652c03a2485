"""The soft gate of task sieve: attention as through a reducer's choice, whose gradient reaches every token's score."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..inputs.farthest import REPEAT, distances
from ..inputs.token_stream import TokenStream
from ..reducers.maxmin import ranked, standardised
from ..reducers.pick import MaxMin, TopK
from ..reducers.registry import Reducer

LOWEST = -1e4  # lower than any margin, and finite, for the gradient's sake


def soft_attention(stream: TokenStream, scores: Tensor, reducer: Reducer, keep: float, temperature: float) -> Tensor:
    """Additive attention (B, 1, L, L) float32 that is nearly the choice of a reducer by `scores` (B, L).

    Keys of the pool get log σ((margin − edge) / temperature). The edge is halfway between the last kept and the first
    dropped token; other keys get 0. At temperature 0 it equals `take`.
    """
    pool = stream.pool
    margin, ranks = margins(stream, scores, reducer, keep)
    kept = reducer.budget.fill(ranks, stream, keep)
    least = margin.masked_fill(~kept, torch.inf).amin(1, keepdim=True)  # (B, 1)
    most = margin.masked_fill(kept | ~pool, LOWEST).amax(1, keepdim=True)
    edge = (torch.where(least.isinf(), 0.0, least) + most) / 2
    bias = torch.where(pool, F.logsigmoid((margin - edge) / temperature), 0.0)
    length = pool.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=pool.device)  # padding attends to itself alone
    visible = (stream.mask[:, None, :] & torch.ones_like(itself).tril()) | itself  # (B, L, L)
    return torch.where(visible, bias[:, None, :], -torch.inf)[:, None]


def margins(stream: TokenStream, scores: Tensor, reducer: Reducer, keep: float) -> tuple[Tensor, Tensor]:
    """Margins (B, L) in units of the scores' spread, with the scores' gradient, and the pick's ranks (B, L).

    Top-k: the standardised score z. Max-min: z + log of the distance to the nearest kept token, for a kept token at the
    time of its choice.
    """
    z = standardised(scores, stream.pool)
    if isinstance(reducer.pick, TopK):
        return z, z
    assert isinstance(reducer.pick, MaxMin) and not reducer.pick.plain, reducer
    with torch.no_grad():
        weight = z.exp()
        at = ranked(stream, weight, reducer.budget.parts(stream, keep))  # weighted distance of each choice
        far = distances(stream.embeds.float()).masked_fill(~(at > -torch.inf)[:, None, :], torch.inf).amin(2)
        far = torch.where(at > -torch.inf, at / weight, far).clamp(REPEAT, 2.0)
    return z + far.log(), at
