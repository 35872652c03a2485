"""What counts as a right answer, and how sure a share of right answers is. Knows nothing about models or media.

The rules are SyncClips' (exact match after normalising), as in SQuAD's evaluation.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

ARTICLE = re.compile(r"^(a|an|the) ")
JOINERS = re.compile(r"[-_/\u2010-\u2015]")  # they stand between words, where other signs stand beside them
Z = 1.959964  # standard deviations on either side of a normal mean that hold 95 %


@dataclass(frozen=True)
class Score:
    """The share of right answers, with its 95 % interval (Wilson's), over the questions that were answered.

    `questions` were asked, `failed` of them have no answer because their clip could not be read. `unparsed` answers
    name no option, or several, and count as wrong. Accuracy and interval are None where nothing was answered.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    questions: int
    failed: int
    unparsed: int = 0


def normalise(text: str) -> str:
    """Lower case, without punctuation, a leading article and needless space."""
    spaced = JOINERS.sub(" ", unicodedata.normalize("NFKC", text).lower())
    letters = "".join(c for c in spaced if unicodedata.category(c)[0] not in "PS")
    return ARTICLE.sub("", " ".join(letters.split()))


def is_right(answer: str, expected: str) -> bool:
    """Exact match after normalising; nothing said is never right."""
    said = normalise(answer)
    return bool(said) and said == normalise(expected)


def score(rights: Iterable[bool | None], unparsed: int = 0) -> Score:
    """Score answers: True right, False wrong, `unparsed` of these; None for a clip that failed."""
    marks = list(rights)
    answered = [mark for mark in marks if mark is not None]
    n, failed = len(answered), len(marks) - len(answered)
    if not n:
        return Score(None, None, len(marks), failed, unparsed)
    share = sum(answered) / n
    return Score(share, wilson(share, n), len(marks), failed, unparsed)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` > 0 right-or-wrong answers (Wilson 1927, score interval).

    Unlike resampling it is not empty where all or none are right: 20 of 20 give 0.839 to 1.
    """
    centre, half = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2)
    low, high = ((centre + side) / (1 + Z**2 / n) for side in (-half, half))
    return max(low, 0.0), min(high, 1.0)
