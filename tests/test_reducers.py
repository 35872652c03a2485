"""The untrained ways to choose tokens."""

from __future__ import annotations

import pytest
import torch

from echoingpixels.errors import OptionError
from echoingpixels.options import REDUCER_NAMES, check_reducer
from echoingpixels.reducers import REDUCERS
from echoingpixels.stream import pad
from tests import tinymodel


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("keep", [0.05, 0.3, 1.0])
def test_a_row_of_a_batch_is_chosen_from_as_if_it_were_alone(name: str, keep: float) -> None:
    on = tinymodel.backbone()
    rows = [tinymodel.stream(on, 4.0), tinymodel.stream(on, 2.5, seed=3), tinymodel.text_stream(on)]
    together = pad(rows)
    kept = REDUCERS[name](together, keep).keep
    for i, row in enumerate(rows):
        assert torch.equal(kept[i][together.mask[i]], REDUCERS[name](row, keep).keep[0])
    assert not bool(kept[~together.mask].any())


@pytest.mark.parametrize("name", REDUCERS)
def test_the_same_stream_is_chosen_from_in_the_same_way_every_time(name: str) -> None:
    stream = tinymodel.stream(tinymodel.backbone())
    torch.manual_seed(1)
    first = REDUCERS[name](stream, 0.2).keep
    torch.manual_seed(2)
    assert torch.equal(first, REDUCERS[name](stream, 0.2).keep)


def test_full_keeps_everything_whatever_the_ratio() -> None:
    stream = tinymodel.stream(tinymodel.backbone())
    assert bool(REDUCERS["full"](stream, 0.01).keep.all())


def test_keeping_all_tokens_is_the_same_for_every_reducer() -> None:
    stream = tinymodel.stream(tinymodel.backbone())
    assert all(bool(reducer(stream, 1.0).keep.all()) for reducer in REDUCERS.values())


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.31, 0.5])
def test_uniform_choice_leaves_no_gap_much_longer_than_another(keep: float) -> None:
    stream = tinymodel.stream(tinymodel.backbone(), 6.0)
    kept = REDUCERS["uniform"](stream, keep).keep[stream.pool].nonzero()[:, 0]
    gaps = kept.diff()
    assert int(gaps.max() - gaps.min()) <= 1


def test_an_unknown_reducer_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError) as caught:
        check_reducer("fastv")
    assert all(name in caught.value.hint for name in REDUCER_NAMES)


@pytest.mark.parametrize("name", REDUCER_NAMES)
def test_a_known_reducer_is_taken(name: str) -> None:
    assert check_reducer(name) == name
