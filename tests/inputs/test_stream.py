"""Keeping tokens: what survives, how many, in which order and where."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from echoingpixels.errors import OptionError
from echoingpixels.inputs.positions import AUDIO, TEXT, VIDEO
from echoingpixels.inputs.token_stream import Selection, TokenStream, budget, pad, top_k
from tests.support import tinymodel

CHOICES = ("full", "uniform", "random", "repeats", "cs2", "cs2 extractive")
RATIOS = (0.01, 0.05, 0.07, 0.2, 0.5, 1.0)


def batch() -> TokenStream:
    """Three rows: a clip with sound, a shorter one without, and text alone."""
    on = tinymodel.backbone()
    return pad(
        [
            tinymodel.stream(on, 4.0),
            tinymodel.stream(on, 3.0, sound=False, seed=3),
            tinymodel.text_stream(on),
        ]
    )


@torch.no_grad()
def choose(choice: str, stream: TokenStream, keep: float) -> Selection:
    """The selection of the random model; a second word is the form of its sieve."""
    name, *form = choice.split()
    model = tinymodel.model(form=form[0]) if form else tinymodel.model()
    return model.select(stream, name, keep)


def pool_of(n: int) -> torch.Tensor:
    return torch.ones(1, n, dtype=torch.bool)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("keep", RATIOS)
@torch.no_grad()
def test_text_tokens_always_survive(choice: str, keep: float) -> None:
    stream = batch()
    taken = stream.take(choose(choice, stream, keep))
    assert ((taken.kind == TEXT) & taken.mask).sum(1).tolist() == ((stream.kind == TEXT) & stream.mask).sum(1).tolist()


@pytest.mark.parametrize("choice", [name for name in CHOICES if name != "full"])
@pytest.mark.parametrize("keep", RATIOS)
@torch.no_grad()
def test_every_row_keeps_exactly_its_budget(choice: str, keep: float) -> None:
    stream = batch()
    taken = stream.take(choose(choice, stream, keep))
    assert taken.pool.sum(1).tolist() == budget(stream.pool, keep).tolist()


@pytest.mark.parametrize(
    ("n", "keep", "k"),
    [
        *((100, 0.07, 8), (100, 0.29, 29), (100, 0.2, 20), (101, 0.2, 21), (3, 0.01, 1), (1, 0.5, 1)),
        *((7, 1.0, 7), (258, 0.05, 13), (0, 0.5, 0), (20_000, 0.00001, 1)),
    ],
)
def test_the_budget_is_the_ceiling_in_double_precision_at_least_one_at_most_the_pool(
    n: int, keep: float, k: int
) -> None:
    assert budget(pool_of(n), keep).tolist() == [k]


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 200_000), percent=st.integers(1, 100))
@example(n=100, percent=7)
@example(n=100, percent=29)
def test_the_budget_of_a_percentage_is_the_ceiling_of_the_exact_share(n: int, percent: int) -> None:
    rounded = math.ceil(n * (percent / 100))  # in double precision, which may exceed the exact share by one
    assert -(-n * percent // 100) <= rounded <= -(-n * percent // 100) + 1
    assert budget(pool_of(n), percent / 100).tolist() == [min(n, max(1, rounded))]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40),
    keep=st.floats(0.001, 1),
)
def test_top_k_is_a_sort_by_score_and_place(rows: list[tuple[int, bool]], keep: float) -> None:
    scores = torch.tensor([[float(score) for score, _ in rows]])
    pool = torch.tensor([[inside for _, inside in rows]])
    k = int(budget(pool, keep))
    best = sorted((i for i, (_, inside) in enumerate(rows) if inside), key=lambda i: (-rows[i][0], i))[:k]
    assert top_k(scores, pool, torch.tensor([k]))[0].nonzero()[:, 0].tolist() == sorted(best)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.0001, float("nan")])
def test_a_ratio_outside_zero_to_one_is_refused(keep: float) -> None:
    with pytest.raises(OptionError, match="outside"):
        budget(pool_of(5), keep)


@torch.no_grad()
def test_kept_tokens_keep_their_order_their_positions_and_all_they_carry() -> None:
    stream = batch()
    selection = choose("random", stream, 0.3)
    taken = stream.take(selection)
    for row in range(3):
        was, now = selection.keep[row], taken.mask[row]
        assert torch.equal(taken.positions[:, row, now], stream.positions[:, row, was])
        for name in ("embeds", "kind", "time", "cell", "saliency"):
            here, there = getattr(taken, name)[row][now], getattr(stream, name)[row][was]
            torch.testing.assert_close(here, there, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(taken.next_position, stream.next_position)


@torch.no_grad()
def test_rows_are_padded_again_on_the_left_with_nothing_in_the_padding() -> None:
    taken = batch().take(choose("uniform", batch(), 0.1))
    assert taken.mask.int().diff(dim=1).min() == 0  # never from real to padding
    empty = ~taken.mask
    assert bool(empty.any()) and not bool(taken.embeds[empty].any())
    assert (taken.kind[empty] == TEXT).all() and (taken.cell[empty] == -1).all() and taken.time[empty].isnan().all()
    assert not bool(taken.positions[:, empty].any()) and not bool(taken.saliency[empty].any())


def test_labels_go_with_the_tokens_they_belong_to() -> None:
    on = tinymodel.backbone()
    stream = tinymodel.stream(on)
    labels = torch.arange(stream.kind.shape[1])[None]
    labelled = pad([replace(stream, labels=labels), replace(tinymodel.text_stream(on), labels=labels[:, :9])])
    selection = choose("uniform", labelled, 0.2)
    taken = labelled.take(selection)
    assert taken.labels is not None
    assert taken.labels[0][taken.mask[0]].tolist() == selection.keep[0].nonzero()[:, 0].tolist()
    assert (taken.labels[~taken.mask] == -100).all()


def test_padding_rows_together_and_cutting_them_apart_gives_them_back() -> None:
    on = tinymodel.backbone()
    rows = [tinymodel.stream(on, 2.0), tinymodel.stream(on, 3.0, seed=4), tinymodel.text_stream(on)]
    together = pad(rows)
    for i, row in enumerate(rows):
        real = together.mask[i]
        for field in fields(TokenStream):
            here, there = getattr(together, field.name), getattr(row, field.name)
            if field.name == "positions":
                assert torch.equal(here[:, i, real], there[:, 0])
            elif field.name in ("embeds", "kind", "time", "cell", "mask", "saliency"):
                torch.testing.assert_close(here[i, real], there[0], rtol=0, atol=0, equal_nan=True)
    assert together.next_position.tolist() == [int(row.next_position) for row in rows]


def test_a_batch_has_no_saliency_if_a_row_has_none() -> None:
    one, other = tinymodel.stream(tinymodel.backbone(), 2.0), tinymodel.stream(tinymodel.backbone(), 3.0, seed=4)
    assert pad([one, other]).saliency is not None
    assert pad([one, replace(other, saliency=None)]).saliency is None


def test_equal_scores_go_to_the_earlier_token() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0, 3.0]])
    kept = top_k(scores, pool_of(7), torch.tensor([4]))
    assert kept[0].tolist() == [False, True, True, True, False, False, True]


def test_many_equal_scores_in_bfloat16_are_chosen_by_position_every_time() -> None:
    scores = torch.linspace(0.5, 0.501, 171).bfloat16()[None]  # a handful of distinct values
    assert len(scores.unique()) < 5
    kept = [top_k(scores, pool_of(171), torch.tensor([9])) for _ in range(5)]
    slow = sorted(range(171), key=lambda i: (-float(scores[0, i]), i))[:9]
    assert all(k[0].nonzero()[:, 0].tolist() == sorted(slow) for k in kept)


def test_scores_outside_the_pool_win_nothing() -> None:
    pool = torch.tensor([[True, False, True, False]])
    kept = top_k(torch.tensor([[0.0, 9.0, -1.0, 9.0]]), pool, torch.tensor([2]))
    assert kept.tolist() == pool.tolist()


def test_tokens_are_counted_by_kind() -> None:
    stream = tinymodel.stream(tinymodel.backbone(), 3.0)
    (counts,) = stream.row_counts()
    assert counts.video == int((stream.kind == VIDEO).sum()) > 0
    assert counts.audio == int((stream.kind == AUDIO).sum()) > 0
    assert counts.image == 0 and counts.total == stream.kind.numel()


def test_selecting_in_a_batch_reads_no_number_from_the_device() -> None:
    with FakeTensorMode():  # tensors without values: any use of one as a number fails
        scores, pool = torch.empty(3, 40), torch.empty(3, 40, dtype=torch.bool)
        assert top_k(scores, pool, budget(pool, 0.1)).shape == pool.shape
        with pytest.raises(DataDependentOutputException):
            pool.sum(1).tolist()
