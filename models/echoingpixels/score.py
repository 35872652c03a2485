"""What counts as a right answer, and how sure a share of right answers is. Knows nothing about models or media.

The rules are SyncClips' (exact match after normalising), as in SQuAD's evaluation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

ARTICLE = re.compile(r"^(a|an|the) ")
JOINERS = re.compile(r"[-_/\u2010-\u2015]")  # they stand between words, where other signs stand beside them
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Score:
    """The share of right answers, with its 95 % bootstrap interval, over the questions that were answered.

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
    import numpy as np  # here, since reading questions needs no more than `normalise`

    # Resampling n right-or-wrong answers with replacement draws the number of right ones from Binomial(n, share).
    shares = np.random.default_rng(SEED).binomial(n, share, RESAMPLES) / n
    low, high = np.percentile(shares, [2.5, 97.5])
    return Score(share, (float(low), float(high)), len(marks), failed, unparsed)
