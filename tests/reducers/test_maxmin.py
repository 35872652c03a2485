"""Greedy max-min choice against a slow one, token by token, and against recorded numbers of a published function."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from echoingpixels.inputs.positions import AUDIO, TEXT, VIDEO
from echoingpixels.inputs.token_stream import TokenStream, budget, pad
from echoingpixels.reducers import budget as budgets
from echoingpixels.reducers.budget import EachWindow, OnePool
from echoingpixels.reducers.maxmin import weights
from echoingpixels.reducers.pick import MaxMin
from tests.parity.seats import stage1_stream
from tests.parity.tally import Recorded
from tests.reducers.test_reducers import rows
from tests.support import tinymodel

SEATS = Path(__file__).parents[1] / "data/seats"
STAGE1 = json.loads((SEATS / "manifest.json").read_text())["stage1"]


def kept(
    stream: TokenStream, keep: float, scores: Tensor | None = None, budget: Any = None, plain: bool = False
) -> Tensor:
    """The kept tokens (B, L) of a max-min choice."""
    budget = budget or OnePool()
    return budget.fill(MaxMin(plain).rank(stream, scores, budget, keep), stream, keep)


def slow(embeds: Tensor, k: int, weight: Tensor, audio: list[bool], floor: float = 0.0) -> list[int]:
    """The places of k tokens in the order of their choice: embeds (n, D), weights (n,)."""
    unit = F.normalize(embeds.float(), dim=-1)
    far = ((1 - unit @ unit.T) * weight).tolist()  # far[i][j]: of j from a chosen i
    least = {kind: min(-(-k * floor // 1), audio.count(kind)) for kind in (False, True)}
    chosen: list[int] = []
    while len(chosen) < k:
        near = {
            j: min(far[i][j] for i in (chosen or range(len(unit))) if i != j) if len(unit) > 1 else 0.0
            for j in range(len(unit))
            if j not in chosen
        }
        short = [j for j in near if least[audio[j]] > sum(audio[i] == audio[j] for i in chosen)]
        chosen.append(max(short or near, key=lambda j: (near[j], -j)))
    return chosen


def of_pool(stream: TokenStream, x: Tensor) -> Tensor:
    return x[0][stream.pool[0]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("keep", [0.003, 0.05, 0.3])
def test_the_choice_is_that_of_the_slow_greedy_rule(keep: float, floor: float, weighted: bool) -> None:
    for stream in rows()[:3]:
        scores = torch.randn(stream.mask.shape, generator=torch.Generator().manual_seed(4)) if weighted else None
        weight = torch.ones(stream.mask.shape) if scores is None else weights(scores, stream.pool)
        k = int(budget(stream.pool, keep))
        audio = (of_pool(stream, stream.kind) == AUDIO).tolist()
        wanted = slow(of_pool(stream, stream.embeds), k, of_pool(stream, weight), audio, floor)
        found = of_pool(stream, kept(stream, keep, scores, OnePool(modality=floor)))
        assert found.nonzero()[:, 0].tolist() == sorted(wanted)


def recorded(case: dict[str, Any]) -> tuple[TokenStream, Tensor, list[int]]:
    """A stream of a recorded case with its saliency (1, L), and the places of the tokens kept there."""
    found = Recorded(SEATS / case["file"])
    audio_from = len(found["video"]) + 1
    return *stage1_stream(case, found), [*found["kept_video"].tolist(), *(found["kept_audio"] + audio_from).tolist()]


@pytest.mark.parametrize("case", STAGE1, ids=lambda case: case["file"])
def test_the_choice_within_windows_is_the_published_one(case: dict[str, Any]) -> None:
    stream, saliency, wanted = recorded(case)
    budget = EachWindow(audio=case["audio_ratio"])
    found = kept(stream, case["video_ratio"], saliency, budget, plain=True)
    assert found[0].nonzero()[:, 0].tolist() == wanted
    together = pad([stream.rows([0], 30), stream])  # the last 30 tokens are audio
    both = kept(together, case["video_ratio"], saliency.expand(2, -1), budget, plain=True)
    assert both[1].nonzero()[:, 0].tolist() == wanted
    assert torch.equal(
        both[0, -30:], kept(stream.rows([0], 30), case["video_ratio"], saliency[:, -30:], budget, True)[0]
    )


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """At most 40 tokens are compared with each other."""
    monkeypatch.setattr(budgets, "PART", 40)
    return budgets.PART


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("keep", [0.005, 0.1, 0.4])
def test_a_row_of_a_batch_of_long_streams_equals_the_row_alone_and_meets_the_budget(keep: float) -> None:
    single, budget_ = rows(), OnePool(modality=0.2)
    together = pad(single)
    found = kept(together, keep, budget=budget_)
    for i, row in enumerate(single):
        assert torch.equal(found[i][together.mask[i]], kept(row, keep, budget=budget_)[0])
    assert found.sum(1).tolist() == budget(together.pool, keep).tolist()


def test_parts_hold_every_token_of_the_pool_once_in_equal_windows(small_parts: int) -> None:
    together = pad(rows())
    parts = OnePool().parts(together, 0.1)
    places = parts.place[parts.pool.mask]
    assert places.sort().values.tolist() == together.pool.flatten().nonzero()[:, 0].tolist()
    sizes = parts.pool.mask.sum(1).view(len(together.mask), -1)
    for row, n in zip(sizes, together.pool.sum(1).tolist(), strict=True):
        used = row[row > 0]
        assert int(used.sum()) == n and len(used) == -(-n // small_parts)
        assert not len(used) or int(used.max() - used.min()) <= 1
    assert bool((parts.k <= parts.pool.mask.sum(1)).all()) and int(parts.k.max()) <= parts.steps


@pytest.mark.usefixtures("small_parts")
def test_a_part_with_more_content_gets_more_of_the_budget() -> None:
    stream = tinymodel.stream(tinymodel.backbone(), 8.0)
    still = stream.pool & (stream.time < 4.0)
    first = stream.embeds[0, stream.pool[0].nonzero()[0, 0]]
    half = replace(stream, embeds=torch.where(still[..., None], first, stream.embeds))
    counts = [int((kept(one, 0.2)[0] & still[0]).sum()) for one in (stream, half)]
    assert counts[1] < 0.5 * counts[0]


def test_the_earlier_of_equal_tokens_is_kept() -> None:
    stream = rows()[0]
    places = stream.pool[0].nonzero()[:, 0]
    doubled = stream.embeds.clone()
    doubled[0, places[1::2]] = doubled[0, places[0::2]][: len(places[1::2])]
    found = kept(replace(stream, embeds=doubled), 0.3)[0]
    assert not bool(found[places[1::2]].any())


def test_the_largest_distance_to_a_kept_token_is_at_most_twice_the_least_possible() -> None:
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(6, 64), dim=-1)
    stream = tinymodel.stream(tinymodel.backbone(), 3.0)
    of = torch.arange(stream.mask.shape[1]) % 6
    stream = replace(stream, embeds=(centres[of] + 0.01 * torch.randn(len(of), 64))[None])
    found = kept(stream, 5.5 / int(stream.pool.sum()))[0]
    assert sorted(of[found].tolist()) == list(range(6)), "one token of each cluster"


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, AUDIO, VIDEO]), st.floats(0, 9, width=32)), min_size=1, max_size=60),
    st.floats(0.01, 1.0),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.sampled_from([0.0, 0.25]),
)
@settings(max_examples=60, deadline=None)
def test_floors_are_reached_as_far_as_a_modality_has_tokens(
    tokens: list[tuple[int, float]], keep: float, modality: float, time: float
) -> None:
    kind = torch.tensor([[kind for kind, _ in tokens]])
    stream = TokenStream(
        embeds=torch.randn(1, len(tokens), 8, generator=torch.Generator().manual_seed(len(tokens))),
        positions=torch.zeros(3, *kind.shape, dtype=torch.int64),
        kind=kind,
        time=torch.tensor([[torch.nan if kind == TEXT else time for kind, time in tokens]]),
        cell=torch.zeros(*kind.shape, 2, dtype=torch.int64),
        mask=torch.ones_like(kind, dtype=torch.bool),
        next_position=torch.zeros(1, dtype=torch.int64),
    )
    pool = OnePool(modality=modality, time=time if modality < 0.5 else 0.0)
    for found in (kept(stream, keep, budget=pool), pool.fill(torch.rand(kind.shape) + 0.1, stream, keep)):
        k = int(found.sum())
        assert k == int(budget(stream.pool, keep)) and not bool((found & ~stream.pool).any())
        for of in (AUDIO, VIDEO):
            least = min(k * modality if modality < 0.5 else k // 2, int((kind == of).sum()))
            assert k == 1 or int((found & (kind == of)).sum()) >= least - 1e-6
        windows = {int(t // 2) for kind, t in tokens if kind != TEXT}
        share = int(pool.time * k / max(1, len(windows)))
        for window in windows:
            inside = stream.pool & ((stream.time // 2) == window)
            assert int((found & inside).sum()) >= min(share, int(inside.sum()))


@torch.no_grad()
def test_scores_draw_the_choice_and_a_large_gap_in_them_does_not() -> None:
    stream = rows()[0]
    scores = torch.randn(stream.mask.shape, generator=torch.Generator().manual_seed(1))
    best = scores.masked_fill(~stream.pool, -torch.inf)
    high = best >= best.topk(int(stream.pool.sum()) // 4).values[0, -1]
    share = [int((kept(stream, 0.1, x) & high).sum()) for x in (None, 5 * scores)]
    assert share[1] > 1.5 * share[0]
    far = torch.where(high, scores, scores - 100.0)  # tokens that a final pass over a long stream left out
    weight = weights(far, stream.pool)
    assert float(weight[stream.pool].max() / weight[stream.pool].min()) < 1e4
    assert torch.equal(weight[stream.pool & ~high].unique(), weight[stream.pool].min()[None])
