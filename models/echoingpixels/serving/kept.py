"""The kept tokens of an answer, for clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..batching import Prompt
from ..display.budget import KeptOverTime, over_time
from ..inputs.kept import kept_by_clip
from ..inputs.token_stream import TokenStream

if TYPE_CHECKING:
    from .engine import Ticket


@dataclass(frozen=True)
class KeptTokens:
    """The kept tokens of one clip.

    `video`: numbers of video (or image) tokens in order of steps, rows and columns; `audio`: of audio tokens in order
    of time. `over_time`: how many in each part of the clip.
    """

    video: tuple[int, ...]
    audio: tuple[int, ...]
    over_time: KeptOverTime


def note_kept(batch: Sequence[Ticket], stream: TokenStream) -> None:
    """Record the kept tokens, rows of a stream (B, L), of the questions that want them."""
    for row, ticket in enumerate(batch):
        if ticket.wants_kept and ticket.prompt is not None:
            ticket.kept = _kept(ticket.prompt, stream, row)


def _kept(prompt: Prompt, stream: TokenStream, row: int) -> tuple[KeptTokens, ...]:
    """Clip by clip."""
    found = []
    for clip, kept in zip(prompt.clips, kept_by_clip(prompt.inputs, stream, row), strict=True):
        budget = over_time(clip.duration, clip.media.span, kept)
        found.append(KeptTokens(kept.video, kept.audio, budget))
    return tuple(found)
