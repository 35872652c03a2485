"""Exact-match scoring after text normalization, as in SQuAD's evaluation, and accuracy with its 95 % interval."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

ARTICLE = re.compile(r"^(a|an|the) ")
JOINERS = re.compile(r"[-_/\u2010-\u2015]")  # separate words, unlike other punctuation
Z = 1.959964  # 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Score:
    """The share of right answers among the answered questions, with its 95 % interval (Wilson's).

    `questions`: all questions. `failed`: questions without an answer, because their clip could not be read. `unparsed`:
    answers that name no option, or several; they count as wrong. Without any answer, accuracy and interval are None.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    questions: int
    failed: int
    unparsed: int = 0


def normalise(text: str) -> str:
    """Lower case, without punctuation, a leading article and repeated spaces."""
    spaced = JOINERS.sub(" ", unicodedata.normalize("NFKC", text).lower())
    letters = "".join(c for c in spaced if unicodedata.category(c)[0] not in "PS")
    return ARTICLE.sub("", " ".join(letters.split()))


def is_right(answer: str, expected: str) -> bool:
    """Whether two texts are equal after normalization; an empty answer is never right."""
    text = normalise(answer)
    return bool(text) and text == normalise(expected)


def score(rights: Iterable[bool | None], unparsed: int = 0) -> Score:
    """Score answers: True right, False wrong (`unparsed` of these), None for a clip that failed."""
    marks = list(rights)
    answered = [mark for mark in marks if mark is not None]
    n, failed = len(answered), len(marks) - len(answered)
    if not n:
        return Score(None, None, len(marks), failed, unparsed)
    share = sum(answered) / n
    return Score(share, wilson(share, n), len(marks), failed, unparsed)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval (Wilson 1927) of a share of `n` > 0 binary outcomes.

    It has a width where all or none are right, too: 20 of 20 give 0.839 to 1.
    """
    centre, half = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2)
    low, high = ((centre + side) / (1 + Z**2 / n) for side in (-half, half))
    return max(low, 0.0), min(high, 1.0)
