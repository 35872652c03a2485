"""The kept tokens of each clip in a prompt, by their numbers in the clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from .positions import AUDIO
from .prepare import Inputs
from .token_stream import TokenStream

Name = tuple[int, int, float, int, int]  # kind, time position, s, row and column: no two tokens of a prompt share all


@dataclass(frozen=True)
class ByKind:
    """Numbers of video (or image) tokens in order of steps, rows and columns, and of audio tokens in order of time."""

    video: tuple[int, ...]
    audio: tuple[int, ...]


def kept_by_clip(inputs: Inputs, stream: TokenStream, row: int = 0) -> tuple[ByKind, ...]:
    """The tokens of each clip of a prompt that are in one row of a stream (B, L) of kept tokens."""
    kept, names = set(_names(stream, row)), _names(inputs)
    found = []
    for media in inputs.media:
        video, audio = list[Name](), list[Name]()
        for name in islice(names, media.span.tokens):
            (audio if name[0] == AUDIO else video).append(name)
        found.append(ByKind(*(tuple(n for n, name in enumerate(one) if name in kept) for one in (video, audio))))
    return tuple(found)


def _names(tokens: Inputs | TokenStream, row: int = 0) -> Iterator[Name]:
    """The names of the audio, video and image tokens, in order."""
    here = tokens.pool[row]
    each = (tokens.kind[row], tokens.positions[0, row], tokens.time[row], *tokens.cell[row].unbind(-1))
    return zip(*(x[here].tolist() for x in each), strict=True)
