"""The part of a prompt up to its last clip's end, which the decoder reads once for all questions about the clip.

Only for a choice of tokens that does not depend on the question. A KV cache holds the keys and values of each token,
and no token attends to a later one: so the part is the same for every question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..backbones.base import Backbone, Features
from ..inputs.prepare import Inputs
from ..inputs.token_stream import Selection, TokenStream, pad
from ..options import GenerateOptions
from ..report import StageTimes, Stopwatch, TokenCounts
from .decode import Prefilled, prefill

Choice = tuple[str, float]  # reducer and keep ratio
Select = Callable[[TokenStream, str, float], Selection]


@dataclass(frozen=True)
class Prefix:
    """The kept tokens of a prompt up to its last audio, video or image token, and the decoder's KV cache of them.

    `before`: the number of its tokens before selection. `time_s`: seconds to choose and to read them.
    """

    stream: TokenStream  # (1, P)
    cache: Any
    before: TokenCounts
    time_s: StageTimes


class Prefixes:
    """The latest prefix that ends with a clip."""

    def __init__(self) -> None:
        self.key: object = None
        self.prefix: Prefix | None = None

    def get(self, key: object) -> Prefix | None:
        """The prefix of this key, or None."""
        return self.prefix if key == self.key else None

    def put(self, key: object, prefix: Prefix) -> None:
        """Replace the prefix."""
        self.key, self.prefix = key, prefix

    def clear(self) -> None:
        """Forget the prefix."""
        self.key = self.prefix = None


@dataclass(frozen=True)
class PrefixRow:
    """A prompt about encoded clips: the features and the prefixes of each, in order."""

    inputs: Inputs
    features: tuple[Features, ...]
    clips: tuple[Prefixes, ...]

    def known(self, choice: Choice) -> Prefix | None:
        """Its prefix by a choice of tokens."""
        return self.clips[-1].get(self.key(choice))

    def key(self, choice: Choice) -> object:
        """What a prefix depends on: the choice, the earlier clips and the text between them."""
        return choice, self.clips[:-1], self._head

    @cached_property
    def _head(self) -> bytes:
        """The token ids up to the last clip's end."""
        return self.inputs.input_ids[0, : self.inputs.media_end].numpy().tobytes()


def reuses(rows: Sequence[PrefixRow], choice: Choice) -> bool:
    """Whether a prefix is known, or two prompts have the same one."""
    keys = {(id(row.clips[-1]), row.key(choice)) for row in rows}
    return len(keys) < len(rows) or any(row.known(choice) is not None for row in rows)


def continued(
    backbone: Backbone, rows: Sequence[PrefixRow], choice: Choice, select: Select, watch: Stopwatch
) -> tuple[TokenStream, list[StageTimes]]:
    """The stream (B, L) of the kept tokens of each row, whose KV cache holds all but the text after the clips.

    Prefixes that are not known are read first, together. Also the seconds that earlier answers spent on each row's
    prefix. Rows are padded on the left, and between prefix and text.
    """
    known = [row.known(choice) for row in rows]
    keys = [(id(row.clips[-1]), row.key(choice)) for row in rows]
    missing = {key: row for key, row, one in zip(keys, rows, known, strict=True) if one is None}
    found = _read(backbone, list(missing.values()), choice, select, watch) if missing else []
    made = dict(zip(missing, found, strict=True))
    every = [made[key] if one is None else one for key, one in zip(keys, known, strict=True)]
    with watch.stage("select"):
        tails = [_tail(backbone, row.inputs) for row in rows]
        order = torch.arange(len(rows), device=backbone.device)
        cache = backbone.joined_cache([prefix.cache for prefix in every], order, empty=False)
        before = tuple(
            prefix.before + TokenCounts(text=tail.mask.shape[1]) for prefix, tail in zip(every, tails, strict=True)
        )
        stream = pad([prefix.stream for prefix in every]).followed(pad(tails))
    spent = [StageTimes() if prefix is None else prefix.time_s for prefix in known]
    return replace(stream, before=before, known=cache), spent


def remember(
    backbone: Backbone,
    rows: Sequence[PrefixRow],
    choice: Choice,
    stream: TokenStream,
    watch: Stopwatch,
    start: Prefilled,
) -> list[Prefix]:
    """Keep the prefix of each row of a stream (B, L) of kept tokens that the decoder has read.

    `watch` has the seconds of all rows.
    """
    length, share, found = stream.mask.shape[1], watch.times() / len(rows), []
    lengths = [length] if len(rows) == 1 else [row.total for row in stream.row_sizes()]
    before = stream.before or stream.row_counts()
    for i, row in enumerate(rows):
        text = row.inputs.kind.shape[1] - row.inputs.media_end
        cache = backbone.cut_cache(start.cache, i, length - lengths[i], length - text)
        counts = replace(before[i], text=before[i].text - text)
        found.append(Prefix(stream.rows([i], lengths[i], without=text), cache, counts, share))
        row.clips[-1].put(row.key(choice), found[-1])
    return found


def _read(
    backbone: Backbone, rows: Sequence[PrefixRow], choice: Choice, select: Select, watch: Stopwatch
) -> list[Prefix]:
    """Choose and read the prefixes of rows, which differ."""
    heads = [replace(row, inputs=row.inputs.part(0, row.inputs.media_end)) for row in rows]
    with watch.stage("select"):
        stream = pad([backbone.embed(head.inputs, head.features) for head in heads])
        stream = stream.take(select(stream, *choice))
    with watch.stage("prefill"):
        start = prefill(backbone, stream, GenerateOptions())
        watch.wait()
    return remember(backbone, heads, choice, stream, watch, start)


def _tail(backbone: Backbone, inputs: Inputs) -> TokenStream:
    """The text after the clip."""
    stream = backbone.embed(inputs.part(inputs.media_end, inputs.kind.shape[1]), ())
    following = torch.full_like(stream.next_position, int(inputs.positions.max()) + 1)
    return replace(stream, next_position=following)
