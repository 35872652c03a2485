"""Scoring of long streams: window by window, then the best tokens of all windows together.

Every window holds a part of the clip and all of the text, so the cost of attention is linear in the clip's length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace

import torch
from torch import Tensor

from ..inputs.row_size import RowSize
from ..inputs.token_stream import TokenStream, entries

AT_ONCE = 16_384  # tokens scored at once: a longer stream is split into windows (docs/long.md)
WINDOW = 4096  # tokens of one window of it
BELOW = 100.0  # subtracted from the scores of tokens that did not reach the final pass

Where = tuple[int, Tensor] | tuple[slice]
ScorePart = Callable[[TokenStream, Where], Tensor]
"""Scores (B, L) float32 of a part of the stream; `where` is its place in the whole."""


def scored(stream: TokenStream, score: ScorePart) -> Tensor:
    """Scores (B, L) float32 of a stream: all of it at once, or by windows where it is long."""
    if not is_long(stream):
        return score(stream, (slice(None),))
    return torch.stack([_row(stream, score, row) for row in range(len(stream.mask))])


def is_long(stream: TokenStream) -> bool:
    """Whether a stream is scored by windows. In training it never is: the gradient needs all tokens at once."""
    return stream.labels is None and stream.mask.shape[1] > AT_ONCE


def _row(stream: TokenStream, score: ScorePart, row: int) -> Tensor:
    """Scores (L,) of one row of a long stream.

    Each window passes its best tokens to a final pass, AT_ONCE tokens in all with the text. The final pass scores them
    together. The others rank below, by their rank in their own window, so that any budget can be met.
    """
    pool = stream.pool[row]
    scores = torch.zeros(pool.shape, device=pool.device)

    def score_at(places: Tensor) -> None:
        size = RowSize(len(places) - len(text), len(text))
        scores[places] = score(_part(stream, row, places, size), (row, places))[0].float()

    pool_size, text_size = (None, None) if stream.sizes is None else astuple(stream.sizes[row])
    places, text = entries(pool, pool_size), entries(stream.mask[row] & ~pool, text_size)
    if not len(places):  # text alone
        return scores
    if len(places) + len(text) <= AT_ONCE:
        score_at(torch.cat([places, text]).sort().values)
        return scores
    below = torch.zeros_like(scores)
    windows = places.tensor_split(count_windows(len(places), len(text)))
    most, passed = _passed_on(len(windows), len(text)), [text]
    for window in windows:
        score_at(torch.cat([text, window]).sort().values)
        order = window[scores[window].argsort(descending=True, stable=True)]
        passed.append(order[:most])
        below[order[most:]] = BELOW + torch.arange(len(order[most:]), device=pool.device) / len(order)
    finalists = torch.cat(passed)
    score_at(finalists.sort().values)
    lowest = scores[torch.cat(passed[1:])].min()
    return torch.where(below > 0, lowest - below, scores)


def _passed_on(windows: int, text: int) -> int:
    """The largest number of tokens that one window passes on."""
    return max(AT_ONCE - text, AT_ONCE // 2) // windows


def count_windows(pool: int, text: int) -> int:
    """Number of windows for `pool` audio and video tokens, each window with all of the text."""
    return max(1, -(-pool // max(WINDOW - text, WINDOW // 2)))


def passes(pool: int, text: int) -> list[int]:
    """Numbers of tokens scored at once, pass by pass, for `pool` audio and video tokens and `text` tokens."""
    if pool + text <= AT_ONCE:
        return [pool + text]
    n = count_windows(pool, text)
    each = _passed_on(n, text)
    sizes = [pool // n + (i < pool % n) for i in range(n)]
    return [*(size + text for size in sizes), sum(min(each, size) for size in sizes) + text]


def _part(stream: TokenStream, row: int, places: Tensor, size: RowSize) -> TokenStream:
    """The tokens at `places` (K,) of one row, as a stream of their own."""
    return replace(
        stream,
        embeds=stream.embeds[row, places][None],
        positions=stream.positions[:, row, places][:, None],
        kind=stream.kind[row, places][None],
        time=stream.time[row, places][None],
        cell=stream.cell[row, places][None],
        mask=stream.mask[row, places][None],
        next_position=stream.next_position[row : row + 1],
        sizes=(size,),
        question=None if stream.question is None else stream.question[row, places][None],
        saliency=None if stream.saliency is None else stream.saliency[row, places][None],
    )
