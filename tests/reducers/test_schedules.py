"""Schedules inside the decoder: their means over the layers, and which tokens their rules keep."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from echoingpixels.inputs.descent import Drop
from echoingpixels.inputs.token_stream import TokenStream, pad
from echoingpixels.reducers.in_decoder import (
    FASTV,
    SEATS,
    MostAttended,
    MostAttendedByWindow,
    Schedule,
    alive,
    by_window,
)
from tests.support import tinymodel

LAYERS = st.integers(1, 48)
KEEPS = st.floats(0.01, 1.0)


def read_by_layer(schedule: Schedule, layers: int, keep: float) -> list[float]:
    """The share of the tokens that each layer reads, layer by layer."""
    entry, shares = schedule.at(layers, keep), []
    left = entry.share
    for layer in range(layers):
        for drop in entry.drops:
            if drop.layer == layer:
                left *= share_of(drop)
        shares.append(left)
    return shares


def share_of(drop: Drop) -> float:
    """The share that a drop keeps."""
    assert isinstance(drop.choose, MostAttended | MostAttendedByWindow)
    return drop.choose.share


@settings(deadline=None)
@given(LAYERS, KEEPS)
def test_layers_of_seats_read_the_ratio_on_average_at_any_depth(layers: int, keep: float) -> None:
    shares = read_by_layer(SEATS, layers, keep)
    assert sum(shares) / layers == pytest.approx(keep)
    assert all(0 <= later <= earlier <= 1 for earlier, later in pairwise(shares))


@settings(deadline=None)
@given(LAYERS, KEEPS)
def test_layers_of_fastv_read_the_ratio_on_average_or_as_little_as_its_first_layers_allow(
    layers: int, keep: float
) -> None:
    shares, first = read_by_layer(FASTV, layers, keep), max(1, round(layers / 16))
    assert sum(shares) / layers == pytest.approx(max(keep, first / layers))
    assert shares[:first] == [1.0] * first and len(set(shares[first:])) <= 1


@pytest.mark.parametrize(
    ("layers", "seats", "fastv"),
    [(28, [16, 18, 20], [2]), (36, [21, 23, 26], [2]), (32, [18, 21, 23], [2]), (6, [3, 4], [1])],
)
def test_drops_are_at_the_same_shares_of_any_depth(layers: int, seats: list[int], fastv: list[int]) -> None:
    assert [drop.layer for drop in SEATS.at(layers, 0.2).drops] == seats
    assert [drop.layer for drop in FASTV.at(layers, 0.2).drops] == fastv


def test_tokens_removed_by_seats_grow_by_e_from_drop_to_drop() -> None:
    first, second, third = alive((16, 18, 20), SEATS.removed, 28, 1 / 1.4)
    assert (first - second) / (1 - first) == pytest.approx(math.e)
    assert (second - third) / (first - second) == pytest.approx(math.e)
    assert SEATS.at(28, 0.1).share == pytest.approx(0.14)


def test_a_ratio_of_1_drops_nothing() -> None:
    for schedule in (SEATS, FASTV):
        entry = schedule.at(28, 1.0)
        assert (entry.share, entry.drops) == (1.0, ())


# The rule of SEATS.


def slow_by_window(scores: Tensor, kind: list[str], window: list[int], k: dict[str, int]) -> set[int]:
    """One row (L,), window by window and one token at a time."""
    places = {(w, of): [i for i in range(len(kind)) if (window[i], kind[i]) == (w, of)] for w in window for of in "va"}
    windows, kinds = sorted(set(window)), [of for of in "va" if of in kind]
    share = dict.fromkeys(windows, 0.0)
    for of in kinds:
        weight = {w: math.exp(float(scores[places[w, of]].double().mean()) / 0.1) for w in windows if places[w, of]}
        for w, value in weight.items():
            share[w] += value / sum(weight.values()) / len(kinds)
    total = sum(k[of] for of in kinds)
    least = {w: sum(bool(places[w, of]) for of in kinds) for w in windows}
    most = {w: sum(len(places[w, of]) for of in kinds) for w in windows}
    size = {w: min(max(round(share[w] * total), least[w]), most[w]) for w in windows}
    while sum(size.values()) != total:
        step, before = (1 if sum(size.values()) < total else -1), dict(size)
        for w in windows:
            if sum(size.values()) != total and least[w] <= size[w] + step <= most[w]:
                size[w] += step
        if size == before:
            break  # every window has the least or the most that it may
    kept: set[int] = set()
    for w in windows:
        n = {of: len(places[w, of]) for of in "va"}
        video = round(size[w] * k["v"] / total) if total else 0
        low, high = max(min(1, n["v"]), size[w] - n["a"]), min(n["v"], size[w] - min(1, n["a"]))
        video = min(max(video, low), high)
        for of, quota in (("v", video), ("a", size[w] - video)):
            kept |= set(sorted(places[w, of], key=lambda i: (-float(scores[i]), i))[:quota])
    return kept


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[str], list[int], int]:
    """The kinds and windows of a row's tokens, and a seed for its scores; text has the kind t and window 0."""
    tokens = draw(st.lists(st.tuples(st.sampled_from("vat"), st.integers(0, 4)), max_size=30))
    ordered = sorted(tokens, key=lambda token: token[1])
    return [of for of, _ in ordered], [w for _, w in ordered], draw(st.integers(0, 99))


@settings(deadline=None, max_examples=200)
@given(st.lists(rows(), min_size=1, max_size=3), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.01, 1.0]))
def test_windows_share_the_budget_as_one_by_one_in_rows_of_any_padding(
    batch: list[tuple[list[str], list[int], int]], video: float, audio: float, spread: float
) -> None:
    length = max(5, *(len(kind) for kind, _, _ in batch))
    scores, kinds = torch.zeros(len(batch), length), torch.zeros(2, len(batch), length, dtype=torch.bool)
    window, wanted, k = torch.zeros(len(batch), length, dtype=torch.long), [], []
    for row, (kind, windows, seed) in enumerate(batch):
        first = length - len(kind)
        drawn = spread * torch.rand(len(kind), generator=torch.Generator().manual_seed(seed))
        scores[row, first:] = drawn
        for i, of in enumerate("va"):
            kinds[i, row, first:] = torch.tensor([one == of for one in kind], dtype=torch.bool)
        window[row, first:] = torch.tensor(windows, dtype=torch.long)
        k.append({"v": round(video * kind.count("v")), "a": round(audio * kind.count("a"))})
        pool = [i for i, of in enumerate(kind) if of != "t"]
        kept = slow_by_window(drawn[pool], [kind[i] for i in pool], [windows[i] for i in pool], k[-1])
        wanted.append({first + pool[i] for i in kept})
    counts = torch.tensor([[one["v"] for one in k], [one["a"] for one in k]])
    found = by_window(scores, kinds, window, counts)
    assert [set(row.nonzero()[:, 0].tolist()) for row in found] == wanted


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.9])
def test_a_drop_by_window_keeps_its_share_and_every_window_a_token_of_each_kind(share: float) -> None:
    on = tinymodel.backbone()
    alone = [tinymodel.stream(on, 6.0), tinymodel.stream(on, 3.0, sound=False), tinymodel.text_stream(on)]
    batch = pad(alone)
    attention = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(0))
    rule = MostAttendedByWindow(share)
    together = rule(batch, attention).keep
    for row, stream in enumerate(alone):
        length = stream.mask.shape[1]
        keep = rule(stream, attention[row : row + 1, -length:]).keep[0]
        assert torch.equal(together[row, -length:], keep) and not bool(together[row, :-length].any())
        assert bool(keep[~stream.pool[0]].all())
        groups = kept_groups(stream, keep)
        assert all(kept >= 1 for kept, _ in groups)
        size = sum(round(share * int(kind[0].sum())) for kind in (stream.vision, stream.pool & ~stream.vision))
        assert int((keep & stream.pool[0]).sum()) == max(size, len(groups))


def kept_groups(stream: TokenStream, keep: Tensor) -> list[tuple[int, int]]:
    """Kept and all tokens of each kind in each window of 2 s of a row."""
    groups: dict[tuple[bool, int], list[int]] = {}
    for i in stream.pool[0].nonzero()[:, 0].tolist():
        place = bool(stream.vision[0, i]), int(stream.time[0, i] // 2)
        groups.setdefault(place, []).append(int(keep[i]))
    return [(sum(kept), len(kept)) for kept in groups.values()]


def test_windows_far_apart_in_time_need_no_more_places_than_tokens() -> None:
    stream = tinymodel.stream(tinymodel.backbone(), 4.0)
    sparse = TokenStream(**{**vars(stream), "time": stream.time * 1000})
    kept = MostAttendedByWindow(0.2)(sparse, torch.rand(stream.mask.shape)).keep
    assert all(n >= 1 for n, _ in kept_groups(sparse, kept[0]))


def test_the_rule_of_fastv_keeps_the_most_attended_of_one_pool() -> None:
    stream = tinymodel.stream(tinymodel.backbone(), 4.0)
    attention = torch.rand(stream.mask.shape, generator=torch.Generator().manual_seed(0))
    keep = MostAttended(0.25)(stream, attention).keep
    pool = stream.pool
    assert int((keep & pool).sum()) == math.ceil(0.25 * int(pool.sum())) and bool(keep[~pool].all())
    assert float(attention[keep & pool].min()) > float(attention[pool & ~keep].max())
    assert int((MostAttended(0.0)(stream, attention).keep & pool).sum()) == 1
    text = tinymodel.text_stream(tinymodel.backbone())
    assert torch.equal(MostAttended(0.5)(text, torch.rand(text.mask.shape)).keep, text.mask)
