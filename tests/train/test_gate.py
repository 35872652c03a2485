"""The soft gate of task sieve, for top-k and for max-min."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.token_stream import pad
from echoingpixels.reducers.maxmin import standardised
from echoingpixels.reducers.registry import REDUCERS
from echoingpixels.train.gate import margins, soft_attention
from tests.support import tinymodel

NOISE = 1e-4
CHOICES = ("cs2", "cs2-maxmin")


@pytest.fixture(scope="module")
def on() -> QwenOmni:
    return tinymodel.backbone()


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("keep", [0.1, 0.3, 1.0])
def test_a_narrow_gate_is_the_choice_itself(on: QwenOmni, name: str, keep: float) -> None:
    batch, reducer = pad(tinymodel.answered(on)), REDUCERS[name]
    sieve = tinymodel.sieve(on, form="extractive", layers=2)
    with torch.no_grad():
        scores = sieve.score(sieve.encode(batch))
        soft = on.logits(on.hidden(batch, attention=soft_attention(batch, scores, reducer, keep, 1e-6)))
        hard = on.logits(on.hidden(batch.take(reducer.choose(on, sieve, batch, keep))))
    torch.testing.assert_close(soft[:, -tinymodel.ANSWER :], hard[:, -tinymodel.ANSWER :], atol=NOISE, rtol=0)


@pytest.mark.parametrize("name", CHOICES)
def test_the_gate_also_moves_the_scores_of_tokens_left_out(on: QwenOmni, name: str) -> None:
    batch = tinymodel.answered(on)[1]
    sieve = tinymodel.sieve(on, form="extractive", layers=2)
    scores = sieve.score(sieve.encode(batch))
    scores.retain_grad()
    hidden = on.hidden(batch, attention=soft_attention(batch, scores, REDUCERS[name], 0.2, 0.5))
    F.cross_entropy(on.logits(hidden)[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()).backward()  # type: ignore[index]
    gradient = scores.grad
    assert gradient is not None and bool((gradient[batch.pool] != 0).all())
    assert bool(torch.isfinite(gradient).all())
    on.thinker.zero_grad()  # other tests share this backbone


def test_a_margin_of_max_min_is_the_distance_to_the_nearest_kept_token_times_the_weight(on: QwenOmni) -> None:
    batch, reducer = pad(tinymodel.answered(on)), REDUCERS["cs2-maxmin"]
    scores = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(2))
    margin, ranks = margins(batch, scores, reducer, 0.1)
    z = standardised(scores, batch.pool)
    for row in range(len(batch.mask)):
        kept = (ranks[row] > -torch.inf).nonzero()[:, 0]
        for token in (batch.pool[row] & ~(ranks[row] > -torch.inf)).nonzero()[::7, 0]:
            cosine = F.cosine_similarity(batch.embeds[row, token][None].float(), batch.embeds[row, kept].float())
            nearest = (1 - cosine).min().clamp(min=1e-5)
            torch.testing.assert_close(margin[row, token], z[row, token] + nearest.log(), atol=1e-2, rtol=1e-3)
        dropped = batch.pool[row] & ~(ranks[row] > -torch.inf)
        assert float(margin[row, kept].min()) >= float(margin[row, dropped].max()) - 1e-3
