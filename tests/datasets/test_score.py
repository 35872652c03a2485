"""What counts as right, and how sure a share of right answers is."""

from __future__ import annotations

import numpy as np
import pytest

from echoingpixels.datasets.score import Z, is_right, normalise, score, wilson


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


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (1, 7), (70, 100), (999, 1000)])
def test_the_interval_holds_every_share_that_the_answers_do_not_contradict(right: int, n: int) -> None:
    shares = np.linspace(0, 1, 200_001)
    plausible = shares[np.abs(right / n - shares) <= Z * np.sqrt(shares * (1 - shares) / n) + 1e-12]
    assert wilson(right / n, n) == pytest.approx((plausible.min(), plausible.max()), abs=1e-5)


def test_the_interval_is_the_published_one_where_all_or_none_are_right() -> None:
    assert score([True] * 20).interval == pytest.approx((0.8389, 1.0), abs=5e-5)
    assert score([False] * 20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
    for marks in ([True] * 9, [False] * 9):
        low, high = score(marks).interval or (0.0, 0.0)
        assert 0.0 <= low < high <= 1.0
