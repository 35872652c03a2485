"""Guesses at what comes next, from what was asked and said before (prompt lookup decoding, Saxena 2023).

Knows nothing about models: whoever takes a guess has to check it.
"""

from __future__ import annotations

from collections.abc import Sequence

AT_ONCE = 3


def guess(ids: Sequence[int], most: int) -> list[int]:
    """`most` tokens, as they followed when the newest ones were last there, over again if need be; none if never.

    The newest AT_ONCE tokens are looked for, then fewer.
    """
    for size in range(min(AT_ONCE, len(ids) - 1), 0, -1):
        newest = ids[-size:]
        for start in range(len(ids) - size - 1, -1, -1):
            if ids[start : start + size] == newest:
                since = list(ids[start + size :])
                return (since * (most // len(since) + 1))[:most]
    return []
