"""Explanations by the small random model, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from echoingpixels.explain.explanation import LADDER, Explanation, explain
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
    """A clip explained, and shown as it is or as `shown`; options are those of AskOptions."""
    asked = AskOptions(generate=SHORT, **options)
    return explain(model(form).look(clip), shown or clip, question, asked, keeps)


def heard(clip: Clip) -> Clip:
    """The sound of a clip alone."""
    source = replace(clip.source, path="noise.wav", kind="audio")
    return replace(clip, frames=np.zeros((0, 0, 0, 3), np.uint8), times=clip.times[:0], source=source)


def still(clip: Clip) -> Clip:
    """The first frame of a clip as an image."""
    source = replace(clip.source, path="noise.png", kind="image", duration=None)
    return replace(clip, frames=clip.frames[:1], times=clip.times[:1], audio=None, duration=0.0, source=source)
