"""What counts as right, and how sure a share of right answers is."""

from __future__ import annotations

import numpy as np
import pytest

from echoingpixels.score import RESAMPLES, is_right, normalise, score


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("cat", "cat"),
        ("Cat.", "cat"),
        ("  The cat!\n", "cat"),
        ("a bell", "bell"),
        ("An apple", "apple"),
        ("top-left", "top left"),
        ("Top  Left", "top left"),
        ("“Yes”", "yes"),
        ("YES,", "yes"),
        ("bell", "The bell."),
    ],
)
def test_case_punctuation_and_a_leading_article_do_not_matter(answer: str, expected: str) -> None:
    assert is_right(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", "cat"),
        ("   ", "cat"),
        ("?!", "cat"),
        ("the", "a"),
        ("cat dog", "cat"),
        ("It is a cat", "cat"),
        ("cats", "cat"),
        ("yes no", "yes"),
        ("left top", "top left"),
        ("2", "two"),
        ("", ""),
        ("...", "!"),
    ],
)
def test_anything_else_is_wrong_and_never_a_guess(answer: str, expected: str) -> None:
    assert not is_right(answer, expected)


def test_only_a_leading_article_is_dropped() -> None:
    assert normalise("The cat and the dog") == "cat and the dog"
    assert normalise("another") == "another"
    assert normalise("a") == "a"


def test_a_failed_clip_counts_neither_as_right_nor_as_wrong() -> None:
    found = score([True, False, None, True, None])
    assert (found.accuracy, found.questions, found.failed) == (2 / 3, 5, 2)
    assert score([True, False, True]).interval == found.interval


def test_nothing_answered_has_no_accuracy() -> None:
    assert score([None, None]).accuracy is None
    assert score([None]).interval is None
    assert (score([]).questions, score([]).accuracy) == (0, None)


def test_the_interval_holds_the_share_and_narrows_with_more_questions() -> None:
    few, many = score([True, True, False, False] * 5), score([True, True, False, False] * 500)
    for found in (few, many):
        assert found.accuracy == 0.5 and found.interval is not None
        assert found.interval[0] < 0.5 < found.interval[1]
    assert few.interval is not None and many.interval is not None
    assert many.interval[1] - many.interval[0] < (few.interval[1] - few.interval[0]) / 5


def test_the_interval_is_that_of_resampling_the_answers() -> None:
    marks = [True] * 70 + [False] * 30
    rng = np.random.default_rng(9)
    means = [rng.choice(marks, len(marks)).mean() for _ in range(RESAMPLES)]
    slow = np.percentile(means, [2.5, 97.5])
    assert score(marks).interval == pytest.approx(slow, abs=0.02)


def test_the_interval_is_the_same_every_time() -> None:
    assert score([True, False, True]).interval == score([True, False, True]).interval


def test_all_right_has_no_doubt_to_resample() -> None:
    assert score([True] * 9).interval == (1.0, 1.0)
