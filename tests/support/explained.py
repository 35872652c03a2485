"""Explanations by the small random model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from echoingpixels.explain.explanation import LADDER, Choice, Explanation, explain
from echoingpixels.inputs.positions import AUDIO_TOKENS_PER_S
from echoingpixels.media.clip import Clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from tests.support import tinymodel

QUESTION = "Which object appears first?"
SHORT = GenerateOptions(max_new_tokens=4)


def model(form: str = "extractive") -> EchoingPixels:
    """The random model with a random sieve."""
    return tinymodel.model(form=form)


def explained(
    clip: Clip,
    question: str = QUESTION,
    form: str = "extractive",
    keeps: Sequence[float] = LADDER,
    shown: Clip | None = None,
    **options: Any,
) -> Explanation:
    """The explanation of a clip, displayed as `shown` if given; options are those of AskOptions."""
    asked = AskOptions(generate=SHORT, **options)
    return explain(model(form).encode(clip), shown or clip, question, asked, keeps)


def audio_only(clip: Clip) -> Clip:
    """The audio of a clip alone."""
    source = replace(clip.source, path="noise.wav", kind="audio")
    return replace(clip, frames=np.zeros((0, 0, 0, 3), np.uint8), times=clip.times[:0], source=source)


def still(clip: Clip) -> Clip:
    """The first frame of a clip as an image."""
    source = replace(clip.source, path="noise.png", kind="image", duration=None)
    return replace(clip, frames=clip.frames[:1], times=clip.times[:1], audio=None, duration=0.0, source=source)


def kept_cells(explanation: Explanation, choice: Choice, second: float) -> set[tuple[int, int]]:
    """Rows and columns of the kept video tokens at a second."""
    step = max(time for time in explanation.span.times if time <= second)
    tokens = (explanation.tokens[i] for i in choice.kept)
    return {token.cell for token in tokens if token.cell is not None and token.time == pytest.approx(step)}


def kept_sound(explanation: Explanation, choice: Choice) -> set[int]:
    """Numbers of the kept audio tokens."""
    tokens = (explanation.tokens[i] for i in choice.kept)
    return {round(token.time * AUDIO_TOKENS_PER_S) for token in tokens if token.cell is None}
