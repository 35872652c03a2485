"""Exact match after normalization, and the interval of an accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoingpixels.datasets.score import Z, is_right, normalise, score, wilson

WORDS = st.lists(st.text("bcxyz0189äé", min_size=1, max_size=6), min_size=1, max_size=4).map(" ".join)  # no article
ARTICLES = st.sampled_from(["", "a ", "An ", "THE "])
SIGNS = st.text(" \t\n.,;:!?'\"()“”*", max_size=3)
properties = settings(deadline=None, max_examples=100)


@properties
@given(WORDS, ARTICLES, SIGNS, SIGNS, st.booleans())
def test_case_punctuation_spaces_and_a_leading_article_do_not_matter(
    text: str, article: str, before: str, after: str, upper: bool
) -> None:
    answer = f"{before}{article}{text.title() if upper else text}{after}".replace(" ", "  ")
    assert is_right(answer, text)


@pytest.mark.parametrize(
    ("answer", "expected"), [("The cat!", "cat"), ("top-left", "top left"), ("“Yes”", "yes"), ("bell", "The bell.")]
)
def test_examples_that_are_right(answer: str, expected: str) -> None:
    assert is_right(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("the", "a"), ("It is a cat", "cat"), ("cats", "cat"), ("left top", "top left"), ("2", "two"), ("", "")],
)
def test_examples_that_are_wrong(answer: str, expected: str) -> None:
    assert not is_right(answer, expected)


@properties
@given(SIGNS, SIGNS)
def test_an_answer_without_words_is_never_right(answer: str, expected: str) -> None:
    assert not is_right(answer, expected)


@properties
@given(WORDS, WORDS)
def test_more_words_than_expected_are_wrong(text: str, more: str) -> None:
    assert not is_right(f"{text} {more}", text)


@properties
@given(st.text("".join(map(chr, range(0x2100))), max_size=30))
def test_normalization_keeps_only_single_spaces_and_no_punctuation(text: str) -> None:
    found = normalise(text)
    assert found == " ".join(found.split()) and not set(found) & set("-_/.,;:!?'\"()$+")
    assert normalise(f"{text}.") == found


def test_only_a_leading_article_is_dropped() -> None:
    assert normalise("The cat and the dog") == "cat and the dog"
    assert normalise("another") == "another"
    assert normalise("a") == "a"


@properties
@given(st.lists(st.none() | st.booleans(), max_size=30))
def test_a_failed_clip_counts_neither_as_right_nor_as_wrong(marks: list[bool | None]) -> None:
    found, answered = score(marks), [mark for mark in marks if mark is not None]
    assert (found.questions, found.failed) == (len(marks), marks.count(None))
    assert (found.accuracy, found.interval) == (score(answered).accuracy, score(answered).interval)
    assert found.accuracy == (sum(answered) / len(answered) if answered else None)
    assert (found.interval is None) == (not answered)


@properties
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_contains_the_shares_that_the_answers_do_not_contradict(counts: tuple[int, int]) -> None:
    right, n = counts
    shares = np.linspace(0, 1, 20_001)
    plausible = shares[np.abs(right / n - shares) <= Z * np.sqrt(shares * (1 - shares) / n) + 1e-12]
    assert wilson(right / n, n) == pytest.approx((plausible.min(), plausible.max()), abs=1e-4)


@properties
@given(st.floats(0, 1), st.integers(1, 10_000))
def test_the_interval_contains_the_share_and_narrows_with_more_questions(share: float, n: int) -> None:
    (low, high), (more_low, more_high) = wilson(share, n), wilson(share, 100 * n)
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1
    assert more_high - more_low < (high - low) / 3


def test_the_interval_is_the_published_one_where_all_or_none_are_right() -> None:
    assert score([True] * 20).interval == pytest.approx((0.8389, 1.0), abs=5e-5)
    assert score([False] * 20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
