"""How long an example is, in tokens, and the longest beginning of a clip that is short enough."""

from __future__ import annotations

from dataclasses import replace

from ..backbones.base import Backbone
from ..datasets.questions import Row
from ..errors import MediaError
from ..inputs.positions import Span, place
from ..inputs.prepare import chat_ids, extent_of, span_of
from ..media.clip import SAMPLE_RATE, Clip


def clip_tokens(backbone: Backbone, span: Span) -> int:
    """Tokens of a prompt up to its question: the chat's beginning, and the clip with its marks."""
    before, _, _ = chat_ids(backbone.tokenizer, "", "")
    return place([before, span], backbone.layout).ids.numel()


def text_tokens(backbone: Backbone, row: Row, answer_tokens: int) -> int:
    """Tokens of a question and its answer, of `answer_tokens` where it has none yet."""
    _, after, said = chat_ids(backbone.tokenizer, row.question, row.answer)
    return len(after) + (len(said) if row.answer else answer_tokens + 1)


def cut(backbone: Backbone, clip: Clip, room: int) -> Clip:
    """The longest beginning of a clip, in whole seconds, whose prompt is at most `room` tokens up to its question.

    MediaError where not even its first second is.
    """
    seconds, part = int(-(-clip.duration // 1)), clip
    while clip_tokens(backbone, span_of(extent_of(part.pieces()), backbone.resolution)) > room:
        seconds -= 1
        if seconds < 1:
            said = f"The first second of {clip.source.path} is longer than max_length allows."
            raise MediaError(said, "Raise max_length, or lower max_pixels.")
        part = replace(
            clip,
            frames=clip.frames[clip.times < seconds],
            times=clip.times[clip.times < seconds],
            audio=None if clip.audio is None else clip.audio[: seconds * SAMPLE_RATE],
            duration=float(seconds),
        )
    return part
