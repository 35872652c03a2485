"""Paired comparison of two runs: the counts, and the interval of the difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoingpixels.datasets.questions import Row
from echoingpixels.datasets.score import score
from echoingpixels.evaluation.evaluate import Outcome, Run
from echoingpixels.evaluation.paired import RESAMPLES, Pair, difference, within
from echoingpixels.reducers.setting import Setting
from echoingpixels.report import StageTimes, TokenCounts, Tokens

NOTHING = Tokens.of(*2 * [TokenCounts()])


def run(setting: Setting, *rights: bool | None) -> Run:
    """A run of two questions a clip, the second ones of another kind."""
    rows = [
        Row(f"q{i}", Path(f"{i // 2}.mp4"), f"Who {i}?", "cat", ("who", "where")[i % 2]) for i in range(len(rights))
    ]
    outcomes = tuple(Outcome(row, setting, None, right) for row, right in zip(rows, rights, strict=True))
    return Run(setting, score(rights), {}, {}, NOTHING, {}, StageTimes(), outcomes)


def test_gained_and_lost_are_counted_and_a_failed_clip_is_left_out() -> None:
    marks = [(True, False), (True, True), (False, True), (True, False), (None, True), (False, None), (False, False)]
    found = difference(Pair(i, ours, theirs) for i, (ours, theirs) in enumerate(marks))
    assert (found.questions, found.failed, found.clips) == (7, 2, 5)
    assert (found.gained, found.lost, found.difference) == (2, 1, 1 / 5)
    assert found.interval is not None and found.interval[0] < 1 / 5 < found.interval[1]


PAIRS = st.lists(st.builds(Pair, st.integers(0, 5), *2 * [st.none() | st.booleans()]), max_size=30)


@settings(deadline=None, max_examples=100)
@given(PAIRS)
def test_the_counts_add_up_and_the_interval_contains_possible_differences_only(pairs: list[Pair]) -> None:
    found = difference(pairs)
    answered = [pair for pair in pairs if pair.ours is not None and pair.theirs is not None]
    assert (found.questions, found.failed) == (len(pairs), len(pairs) - len(answered))
    assert found.clips == len({pair.clip for pair in answered})
    assert (found.difference is None, found.interval is None) == (not answered, found.clips < 2)
    if found.difference is not None:
        assert found.difference * len(answered) == pytest.approx(found.gained - found.lost)
    if found.interval is not None:
        assert -1 <= found.interval[0] <= found.interval[1] <= 1


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_exchanged_runs_have_the_opposite_difference_and_equal_runs_none(pairs: list[Pair]) -> None:
    found, swapped = difference(pairs), difference(Pair(pair.clip, pair.theirs, pair.ours) for pair in pairs)
    assert (found.gained, found.lost) == (swapped.lost, swapped.gained)
    assert found.difference is None or found.difference == -(swapped.difference or 0.0)
    if found.interval is not None and swapped.interval is not None:
        assert found.interval == pytest.approx((-swapped.interval[1], -swapped.interval[0]))
    equal = difference(Pair(pair.clip, pair.ours, pair.ours) for pair in pairs)
    assert equal.difference in (None, 0.0) and equal.interval in (None, (0.0, 0.0)) and not equal.gained + equal.lost


def test_nothing_in_common_has_no_difference_and_one_clip_no_interval() -> None:
    assert difference([]).difference is None
    assert difference([Pair(0, None, True)]).difference is None
    assert difference([Pair(0, True, False), Pair(0, False, False)]).interval is None


def test_the_interval_is_that_of_resampled_clips() -> None:
    random = np.random.default_rng(3)
    clips = [[int(x) for x in random.integers(-1, 2, size=random.integers(1, 5))] for _ in range(40)]
    pairs = [Pair(i, change >= 0, change <= 0) for i, clip in enumerate(clips) for change in clip]
    shares = []
    for _ in range(RESAMPLES):
        drawn = [change for i in random.integers(40, size=40) for change in clips[i]]
        shares.append(sum(drawn) / len(drawn))
    assert difference(pairs).interval == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=0.03)


def test_dependent_questions_give_a_wider_interval_than_independent_ones() -> None:
    together = difference(Pair(i // 10, i // 10 % 2 == 0, False) for i in range(200)).interval
    alone = difference(Pair(i, i // 10 % 2 == 0, False) for i in range(200)).interval
    assert together is not None and alone is not None
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_each_run_is_compared_with_the_run_with_all_tokens() -> None:
    full = run(Setting("full", 1.0), True, True, False, None)
    runs = [
        run(Setting("cs2", 0.2), True, False, True, None),
        full,
        run(Setting("uniform", 0.2), False, True, False, None),
    ]
    found = within(runs)
    assert list(found) == [runs[0].setting, runs[2].setting]
    cs2 = found[runs[0].setting]
    assert (cs2.source, cs2.against, cs2.here, cs2.there) == (None, full.setting, 0, 0)
    assert (cs2.whole.gained, cs2.whole.lost, cs2.whole.failed) == (1, 1, 1)
    assert {kind: one.difference for kind, one in cs2.by_kind.items()} == {"where": -1.0, "who": 0.5}
    assert cs2.by_regime == {}
    assert within([runs[0]]) == {}


def test_questions_with_equal_ids_are_paired_by_position() -> None:
    full, cs2 = run(Setting("full", 1.0), True, False), run(Setting("cs2", 0.2), False, True)
    same = [
        replace(one, outcomes=tuple(replace(o, row=replace(o.row, id="q")) for o in one.outcomes))
        for one in (full, cs2)
    ]
    assert within(same)[cs2.setting].whole == within([full, cs2])[cs2.setting].whole
