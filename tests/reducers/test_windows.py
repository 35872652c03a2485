"""Scoring a long stream by windows: the same as at once below the limit, and the guarantees above it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import tools.quotas  # noqa: F401  cs2-half and cs2-video
from echoingpixels.inputs.token_stream import TokenStream, budget, pad
from echoingpixels.model import EchoingPixels
from echoingpixels.reducers import chunked_scoring as windows
from echoingpixels.reducers.chunked_scoring import Where, passes, scored
from tests.support import tinymodel

REDUCERS = ("cs2", "cs2-half", "cs2-video", "relevance")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 40 tokens, 60 scored together."""
    monkeypatch.setattr(windows, "AT_ONCE", 60)
    monkeypatch.setattr(windows, "WINDOW", 40)


def stream(seconds: float = 6.0, seed: int = 0) -> TokenStream:
    """Some 200 tokens, 16 of them text and marks."""
    return tinymodel.stream(tinymodel.backbone(), seconds, seed=seed)


@cache
def model_of(form: str) -> EchoingPixels:
    made: EchoingPixels = tinymodel.model(form=form)
    return made


def choice(made: TokenStream, reducer: str, keep: Any = 0.1, form: str = "extractive") -> Any:
    return model_of(form).select(made, reducer, keep)


@pytest.mark.parametrize(("reducer", "form"), [*((name, "extractive") for name in REDUCERS), ("cs2", "fused")])
def test_up_to_the_limit_nothing_changes(reducer: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stream()
    flat = choice(made, reducer, form=form)
    monkeypatch.setattr(windows, "AT_ONCE", made.mask.shape[1])
    monkeypatch.setattr(windows, "WINDOW", 10)
    limited = choice(made, reducer, form=form)
    assert torch.equal(flat.keep, limited.keep) and torch.equal(flat.scores, limited.scores)
    assert (flat.fused is None) == (limited.fused is None)
    assert flat.fused is None or torch.equal(flat.fused, limited.fused)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("keep", [0.01, 0.35, 1.0])
def test_above_it_the_budget_is_met_exactly_and_text_survives(reducer: str, keep: float) -> None:
    made = stream()
    kept = choice(made, reducer, keep).keep
    pool = made.pool
    if reducer != "cs2-video":
        assert int((kept & pool).sum()) == int(budget(pool, keep))
    assert bool(kept[made.mask & ~pool].all())
    assert torch.equal(kept, choice(made, reducer, keep).keep)


@pytest.mark.usefixtures("small")
def test_a_planted_token_is_found_wherever_it_is() -> None:
    made = stream()
    places = made.pool[0].nonzero()[:, 0]
    for planted in places[:: len(places) // 7].tolist():

        def rate(part: TokenStream, where: Where, planted: int = planted) -> Tensor:
            noise = torch.rand(part.mask.shape, generator=torch.Generator().manual_seed(1))
            return torch.where(places_of(made, where) == planted, 2.0, noise)

        scores = scored(made, rate)
        assert int(scores[0].where(made.pool[0], -torch.inf).argmax()) == planted


def places_of(made: TokenStream, where: Where) -> Tensor:
    return torch.arange(made.mask.shape[1]).expand(made.mask.shape)[where]  # type: ignore[index]


@pytest.mark.usefixtures("small")
def test_no_more_than_the_limit_is_scored_at_once_and_always_with_the_text() -> None:
    made, parts = stream(), []
    text = int((made.mask & ~made.pool).sum())

    def rate(part: TokenStream, where: Where) -> Tensor:
        parts.append(part)
        assert int((part.mask & ~part.pool).sum()) == text
        assert torch.equal(part.embeds[0], made.embeds[where]) and torch.equal(
            part.positions[:, 0], made.positions[(slice(None), *where)]
        )
        return torch.rand(part.mask.shape)

    scored(made, rate)
    lengths = [part.mask.shape[1] for part in parts]
    assert max(lengths[:-1]) <= 40 and lengths[-1] <= 60
    pool = int(made.pool.sum())
    assert lengths == passes(pool, text) and sum(lengths[:-1]) == pool + text * (len(lengths) - 1)
    covered = torch.cat([part.embeds[part.pool] for part in parts[:-1]])
    assert torch.equal(covered, made.embeds[made.pool])  # every token once, in order


@pytest.mark.usefixtures("small")
def test_tokens_outside_the_final_come_last_and_the_second_score_decides() -> None:
    made, ratings = stream(), []

    def rate(part: TokenStream, where: Where) -> Tensor:
        ratings.append((places_of(made, where), torch.randn(part.mask.shape)))
        return ratings[-1][1]

    scores = scored(made, rate)[0]
    finalists, last = ratings[-1]
    assert torch.equal(scores[finalists], last[0])
    left = made.pool[0].clone()
    left[finalists] = False
    assert bool(left.any()) and scores[left].max() < scores[finalists][made.pool[0][finalists]].min()
    for places, found in ratings[:-1]:  # within a window, by its own rating
        there = left[places]
        order = found[0][there].argsort(descending=True)
        assert bool((scores[places][there][order].diff() <= 0).all())


@pytest.mark.usefixtures("small")
def test_a_fused_token_is_that_of_the_last_scoring() -> None:
    made = stream()
    model = model_of("fused")
    sieve = model.sieve
    assert sieve is not None
    fused = model.select(made, "cs2", 1.0).fused
    parts: list[tuple[Tensor, Tensor]] = []

    def rate(part: TokenStream, where: Where) -> Tensor:
        hidden = sieve.encode(part)
        parts.append((places_of(made, where), hidden[0]))
        return sieve.score(hidden)

    with torch.no_grad():
        scored(made, rate)
    for places, hidden in parts[-1:]:
        assert fused is not None and torch.equal(fused[0, places], hidden)
    text = (made.mask & ~made.pool)[0].nonzero()[:, 0]
    assert set(text.tolist()) <= set(parts[-1][0].tolist())
    assert bool(fused[0].isfinite().all()) and bool((fused[0].abs().sum(-1) > 0).all())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("reducer", ["cs2", "relevance"])
def test_a_row_of_a_batch_equals_the_row_alone(reducer: str) -> None:
    on = tinymodel.backbone()
    alone = [stream(6.0), stream(4.0, seed=3), stream(0.5, seed=5), tinymodel.text_stream(on)]
    together = choice(pad(alone), reducer).keep
    for row, one in enumerate(alone):
        assert torch.equal(together[row, -one.mask.shape[1] :], choice(one, reducer).keep[0])


@pytest.mark.usefixtures("small")
def test_training_does_not_use_windows() -> None:
    made = stream()
    labelled = replace(made, labels=torch.full_like(made.kind, -100))
    sieve = model_of("extractive").sieve
    assert sieve is not None and not windows.is_long(labelled) and windows.is_long(made)
    assert sieve(labelled, 0.1).gate is not None


@pytest.mark.parametrize(("pool", "text"), [(100, 10), (16_384, 1), (20_000, 60), (190_000, 80), (30_000, 9_000)])
def test_passes_are_those_that_scoring_makes(pool: int, text: int) -> None:
    lengths = passes(pool, text)
    if pool + text <= windows.AT_ONCE:
        assert lengths == [pool + text]
        return
    assert sum(lengths[:-1]) - text * (len(lengths) - 1) == pool
    assert lengths[-1] <= max(windows.AT_ONCE, windows.AT_ONCE // 2 + text)
    assert max(lengths[:-1]) <= max(windows.WINDOW, windows.WINDOW // 2 + text)
