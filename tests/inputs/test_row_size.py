"""The numbers that the host computes are those of the device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from echoingpixels.inputs.row_size import RowSize
from echoingpixels.inputs.token_stream import TokenStream, budget, entries, pad
from echoingpixels.reducer_names import REDUCER_NAMES
from tests.support import tinymodel

SHARES = st.integers(1, 1000).map(lambda n: n / 1000)


@given(st.integers(0, 3000), st.integers(0, 9000), SHARES)
def test_the_host_and_the_device_keep_the_same_number(pool: int, absent: int, share: float) -> None:
    mask = torch.arange(3000)[None] < pool
    assert RowSize(pool, 9).kept(share, absent) == int(budget(mask, share, torch.tensor([absent])))


@given(st.lists(st.booleans(), max_size=40))
def test_entries_are_found_without_waiting_as_they_are_by_waiting(mask: list[bool]) -> None:
    where = torch.tensor(mask, dtype=torch.bool)
    assert torch.equal(entries(where, sum(mask)), entries(where, None))


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("reducer", REDUCER_NAMES)
@torch.no_grad()
def test_the_kept_tokens_are_the_same_where_the_host_does_not_know_the_sizes(reducer: str, keep: float) -> None:
    model = tinymodel.model()
    on = model.backbone
    known = pad([tinymodel.stream(on, 2.0), tinymodel.stream(on, 4.0, seed=5), tinymodel.text_stream(on)])
    unknown = replace(known, sizes=None)
    chosen = model.select(known, reducer, keep)
    assert known.row_sizes() == unknown.row_sizes()
    if chosen.kept is not None:
        assert list(chosen.kept) == (chosen.keep & known.pool).sum(1).tolist()
    found, expected = known.take(chosen), unknown.take(model.select(unknown, reducer, keep))
    assert found.sizes == expected.sizes == replace(found, sizes=None).row_sizes()
    same(found, expected)


def same(one: TokenStream, other: TokenStream) -> None:
    for name in ("embeds", "positions", "kind", "cell", "mask"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
