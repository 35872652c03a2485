"""Two runs compared question by question: what is counted, and how sure a difference is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from echoingpixels.datasets.questions import Row
from echoingpixels.datasets.score import score
from echoingpixels.evaluation.evaluate import Outcome, Run
from echoingpixels.evaluation.paired import RESAMPLES, Pair, difference, within
from echoingpixels.reducers.setting import Setting
from echoingpixels.report import Tokens

NOTHING = Tokens.of(*2 * [dict.fromkeys(("video", "audio", "image", "text"), 0)])


def run(setting: Setting, *rights: bool | None) -> Run:
    """A run of two questions a clip, the second ones of another kind."""
    rows = [
        Row(f"q{i}", Path(f"{i // 2}.mp4"), f"Who {i}?", "cat", ("who", "where")[i % 2]) for i in range(len(rights))
    ]
    outcomes = tuple(Outcome(row, setting, None, right) for row, right in zip(rows, rights, strict=True))
    return Run(setting, score(rights), {}, {}, NOTHING, {}, {}, outcomes)


def test_gained_and_lost_are_counted_and_a_failed_clip_is_left_out() -> None:
    marks = [(True, False), (True, True), (False, True), (True, False), (None, True), (False, None), (False, False)]
    found = difference(Pair(i, ours, theirs) for i, (ours, theirs) in enumerate(marks))
    assert (found.questions, found.failed, found.clips) == (7, 2, 5)
    assert (found.gained, found.lost, found.difference) == (2, 1, 1 / 5)
    assert found.interval is not None and found.interval[0] < 1 / 5 < found.interval[1]


def test_equal_runs_do_not_differ_at_all() -> None:
    found = difference(Pair(i, i % 3 == 0, i % 3 == 0) for i in range(30))
    assert (found.difference, found.interval, found.gained, found.lost) == (0.0, (0.0, 0.0), 0, 0)


def test_nothing_in_common_has_no_difference_and_one_clip_no_interval() -> None:
    assert difference([]).difference is None
    assert difference([Pair(0, None, True)]).difference is None
    assert difference([Pair(0, True, False), Pair(0, False, False)]).interval is None


def test_the_interval_is_that_of_drawing_clips_again() -> None:
    random = np.random.default_rng(3)
    clips = [[int(x) for x in random.integers(-1, 2, size=random.integers(1, 5))] for _ in range(40)]
    pairs = [Pair(i, change >= 0, change <= 0) for i, clip in enumerate(clips) for change in clip]
    shares = []
    for _ in range(RESAMPLES):
        drawn = [change for i in random.integers(40, size=40) for change in clips[i]]
        shares.append(sum(drawn) / len(drawn))
    assert difference(pairs).interval == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=0.03)


def test_questions_that_go_together_prove_less_than_as_many_on_their_own() -> None:
    together = difference(Pair(i // 10, i // 10 % 2 == 0, False) for i in range(200)).interval
    alone = difference(Pair(i, i // 10 % 2 == 0, False) for i in range(200)).interval
    assert together is not None and alone is not None
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_every_run_is_set_beside_the_one_with_all_tokens() -> None:
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


def test_questions_with_one_id_are_paired_by_their_place() -> None:
    full, cs2 = run(Setting("full", 1.0), True, False), run(Setting("cs2", 0.2), False, True)
    same = [
        replace(one, outcomes=tuple(replace(o, row=replace(o.row, id="q")) for o in one.outcomes))
        for one in (full, cs2)
    ]
    assert within(same)[cs2.setting].whole == within([full, cs2])[cs2.setting].whole
