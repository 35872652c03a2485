"""Saliency: each token's influence on the full model's answer, and the sieve that is distilled from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from echoingpixels.inputs.token_stream import Selection, pad
from echoingpixels.reducers.attention import relevant
from echoingpixels.train.saliency import TARGETS, agreed, distil_loss, divergence, saliency
from tests.support import tinymodel


def test_saliency_is_gradient_times_input_of_the_likeliest_tokens() -> None:
    on = tinymodel.backbone()
    row = tinymodel.answered(on)[1]
    found = saliency(on, row)[0]
    with torch.no_grad():
        logits = on.logits(on.hidden(row))[0, -tinymodel.ANSWER - 1 : -1]
        likeliest = logits.argmax(-1)
        base = logits.log_softmax(-1).gather(1, likeliest[:, None]).sum()
        for kind in (1, 2):
            of = row.pool[0] & (row.kind[0] == kind)
            mean = row.embeds[0][of].mean(0)
            tokens = of.nonzero()[:4, 0]
            slopes = []
            for token in tokens:  # the slow way: nudge one token towards the mean and see what the answer loses
                step = 1e-2
                embeds = row.embeds.clone()
                embeds[0, token] += step * (embeds[0, token] - mean)
                logits = on.logits(on.hidden(replace(row, embeds=embeds)))[0, -tinymodel.ANSWER - 1 : -1]
                moved = logits.log_softmax(-1).gather(1, likeliest[:, None]).sum()
                slopes.append((moved - base).abs() / step)
            slow, fast = torch.stack(slopes), found[tokens]
            torch.testing.assert_close(fast / fast.sum(), slow / slow.sum(), rtol=0.1, atol=0.02)


def test_saliency_sums_to_one_over_the_pool_and_a_batch_is_its_rows() -> None:
    on = tinymodel.backbone()
    single = tinymodel.answered(on)
    together = pad(single)
    found = saliency(on, together)
    torch.testing.assert_close(found.sum(1), torch.ones(len(single)))
    assert not found[~together.pool].any()
    for i, row in enumerate(single):
        torch.testing.assert_close(found[i][together.mask[i]], saliency(on, row)[0], rtol=1e-3, atol=1e-6)


def test_saliency_leaves_the_decoder_without_gradients() -> None:
    on = tinymodel.backbone()
    saliency(on, tinymodel.answered(on)[0])
    assert all(p.grad is None for p in on.parameters())


SHARES = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any).map(lambda n: torch.tensor([n]) / sum(n))


@settings(max_examples=50, deadline=None)
@given(target=SHARES, shares=SHARES)
def test_divergence_is_zero_only_from_itself(target: Tensor, shares: Tensor) -> None:
    assert abs(float(divergence(target, target))) < 1e-6
    if not torch.allclose(target, shares):
        assert float(divergence(shares, target)) > 1e-4


def test_what_is_agreed_is_the_geometric_mean_of_saliency_and_relevance() -> None:
    on = tinymodel.backbone()
    together = pad(tinymodel.answered(on))
    found, pool = agreed(on, together), together.pool
    torch.testing.assert_close(found.sum(1), torch.ones(len(pool)))
    product = (saliency(on, together) * relevant(on, together)).sqrt()
    torch.testing.assert_close((found / product)[1][pool[1]].std(), torch.tensor(0.0), rtol=0, atol=1e-3)
    assert not found[~pool].any()


@torch.no_grad()
def test_the_answer_is_not_what_asks() -> None:
    on = tinymodel.backbone()
    row = tinymodel.answered(on)[0]
    asked = row.take(Selection(row.labels == -100))
    found, wanted = relevant(on, row), relevant(on, replace(asked, labels=None))
    torch.testing.assert_close(found[row.pool], wanted[asked.pool])
    assert not torch.allclose(relevant(on, replace(row, labels=None))[row.pool], wanted[asked.pool])


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_steps_of_distilling_bring_the_scores_nearer_to_the_target(target: str) -> None:
    on = tinymodel.backbone()
    together = pad(tinymodel.answered(on))
    sieve = tinymodel.sieve(on, form="extractive")
    optimizer = torch.optim.AdamW(sieve.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = distil_loss(on, sieve, together, sieve.score(sieve.encode(together)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is None for p in on.parameters())
