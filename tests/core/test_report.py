"""The arithmetic of a report: seconds by stage, token budgets, throughput."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from echoingpixels.report import STAGES, StageTimes, Stopwatch, TokenCounts, Tokens, decoding_rate

SECONDS = st.none() | st.floats(0, 1e5)
TIMES = st.builds(StageTimes, **dict.fromkeys(STAGES, SECONDS))
COUNTS = st.builds(TokenCounts, *[st.integers(0, 10_000)] * 4)


def same(one: StageTimes, other: StageTimes) -> None:
    """Equal up to rounding; the same stages ran."""
    assert list(one.known()) == list(other.known())
    assert one.known() == pytest.approx(other.known(), rel=1e-6, abs=1e-6)


@given(TIMES, st.integers(1, 12))
def test_the_shares_of_a_batch_add_up_to_its_seconds(times: StageTimes, rows: int) -> None:
    same(sum([times / rows] * rows, StageTimes()), times)


@given(TIMES, TIMES)
def test_subtraction_undoes_addition(times: StageTimes, part: StageTimes) -> None:
    rest = (times + part) - part
    for stage in STAGES:
        ran = [seconds for seconds in (getattr(times, stage), getattr(part, stage)) if seconds is not None]
        left = getattr(rest, stage)
        assert (left is None) == (not ran)
        assert left is None or left == pytest.approx(getattr(times, stage) or 0.0, rel=1e-6, abs=1e-6)
    if set(part.known()) <= set(times.known()):
        same(rest, times)


@given(TIMES, TIMES, TIMES)
def test_addition_is_commutative_and_associative_and_nothing_changes_nothing(
    a: StageTimes, b: StageTimes, c: StageTimes
) -> None:
    assert a + b == b + a and a + StageTimes() == a and a - StageTimes() == a
    same((a + b) + c, a + (b + c))


@given(TIMES)
def test_totals_leave_out_loading_and_json_has_every_stage(times: StageTimes) -> None:
    known = times.known()
    without = known.get("load", 0.0) + known.get("evidence", 0.0)
    assert times.total == pytest.approx(sum(known.values()) - without, abs=1e-6)
    assert times.total == times.first_token + known.get("generate", 0.0)
    plain = times.as_dict()
    assert tuple(plain) == (*STAGES, "first_token", "total")
    assert plain["total"] == (times.total if known else None) and plain["decode"] == times.decode


@given(st.lists(st.tuples(COUNTS, COUNTS), max_size=5))
def test_token_budgets_add_up_by_kind(parts: list[tuple[TokenCounts, TokenCounts]]) -> None:
    total = Tokens.total(Tokens.of(*part) for part in parts)
    assert total.before == sum((before for before, _ in parts), TokenCounts())
    assert total.after == sum((after for _, after in parts), TokenCounts())
    pool = sum(before.pool for before, _ in parts)
    assert total.kept_ratio == (sum(after.pool for _, after in parts) / pool if pool else 1.0)


def test_a_stopwatch_adds_and_counts_its_stages_also_those_that_fail() -> None:
    watch = Stopwatch(torch.device("cpu"), StageTimes(decode=2.0))
    for _ in range(3):
        with watch.stage("decode"):
            pass
    with pytest.raises(ZeroDivisionError), watch.stage("encode"):
        raise ZeroDivisionError
    assert watch.counts == {"decode": 3, "encode": 1}
    assert watch.times().decode == pytest.approx(2.0, abs=0.1) and watch.times().encode is not None
    assert watch.times().prefill is None


def test_the_decoding_rate_leaves_out_each_row_s_first_token() -> None:
    assert decoding_rate(tokens=13, rows=3, seconds=2.0) == 5.0
    assert decoding_rate(tokens=3, rows=3, seconds=2.0) is None
    assert decoding_rate(tokens=9, rows=3, seconds=None) is None
