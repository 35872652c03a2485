"""An explanation as one HTML file without external parts.

This module computes all numbers; the page's script only draws them. Names, questions and answers are passed as JSON.
The page's content security policy allows no script except the one whose hash it states.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from ..checkpoints.loading import ASSETS
from ..generation.evidence import Moment
from ..inputs.patches import STEP
from .budget import KeptOverTime, over_time
from .explanation import Choice, Explanation, Token
from .pictures import jpeg, jpegs, spectrogram
from .sound import mp3


@dataclass(frozen=True)
class ByKind:
    """Numbers of video (or image) tokens in order of steps, rows and columns, and of audio tokens in order of time."""

    video: tuple[int, ...]
    audio: tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """One position of the page's slider.

    `kept`: indices of the kept tokens. `heat`: percentage of all tokens that score lower than each token, None without
    scores. `moments`: the evidence times, and `evidence` these in words, or the reason for none.
    """

    reducer: str
    keep: float
    answer: str
    finish_reason: str
    kept: ByKind
    heat: ByKind | None
    budget: KeptOverTime
    moments: tuple[Moment, ...]
    evidence: str
    report: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """The data of the page's script; images and audio in base64, times in s."""

    name: str
    question: str
    model: str
    reducer: str
    belief: str
    nested: bool
    remarks: tuple[str, ...]
    duration: float
    times: tuple[float, ...]
    frames: tuple[str, ...]  # JPEG
    height: int  # pixels of a frame
    width: int
    frames_per_step: int
    rows: int
    columns: int
    still: bool
    sound: str | None  # MP3
    spectrogram: str | None  # JPEG
    spectrogram_s: float
    audio_tokens: int
    stops: tuple[Stop, ...]
    asked: int


def render(explanation: Explanation) -> bytes:
    """The HTML file."""
    part = {name: (ASSETS / "explain" / f"page.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    filled = {
        "title": html.escape(f"{Path(explanation.clip.source.path).name}: {explanation.question}"),
        "css": part["css"],
        "css_hash": _hash(part["css"]),
        "js": part["js"],
        "js_hash": _hash(part["js"]),
        "data": _json(asdict(page(explanation))),
    }
    text = re.sub(
        r"\{\{(\w+)\}\}", lambda found: filled[found[1]], part["html"]
    )  # one pass: filled-in text is not expanded
    return text.encode(errors="replace")


def page(explanation: Explanation) -> Page:
    """The data of the page."""
    clip, span, sound = explanation.clip, explanation.span, spectrogram(explanation.clip)
    return Page(
        name=Path(clip.source.path).name,
        question=explanation.question,
        model=Path(explanation.model).name,
        reducer=explanation.reducer,
        belief=explanation.belief,
        nested=explanation.nested,
        remarks=explanation.remarks,
        duration=clip.duration,
        times=tuple(clip.times.tolist()),
        frames=tuple(_base64(frame) for frame in jpegs(clip.frames)),
        height=clip.frames.shape[1],
        width=clip.frames.shape[2],
        frames_per_step=STEP,
        rows=span.rows,
        columns=span.columns,
        still=span.image,
        sound=None if clip.audio is None or sound is None else _base64(mp3(clip.audio)),
        spectrogram=None if sound is None else _base64(jpeg(sound[0])),
        spectrogram_s=0.0 if sound is None else sound[1],
        audio_tokens=span.audio_tokens,
        stops=tuple(_stop(explanation, choice) for choice in explanation.choices),
        asked=explanation.asked,
    )


def _stop(explanation: Explanation, choice: Choice) -> Stop:
    tokens = explanation.tokens
    counts = {True: count(), False: count()}
    place = [next(counts[token.cell is not None]) for token in tokens]
    return Stop(
        reducer=choice.setting.reducer,
        keep=choice.setting.keep,
        answer=choice.answer.text,
        finish_reason=choice.answer.finish_reason,
        kept=_by_kind(tokens, ((i, place[i]) for i in choice.kept)),
        heat=None if choice.scores is None else _by_kind(tokens, enumerate(_percentiles(choice.scores))),
        budget=over_time(explanation, choice),
        moments=choice.answer.evidence.moments,
        evidence=str(choice.answer.evidence),
        report=choice.answer.report.as_dict(),
    )


def _by_kind(tokens: Sequence[Token], numbers: Iterable[tuple[int, int]]) -> ByKind:
    """(index of a token, number) pairs, split by kind."""
    known = tuple(numbers)
    video = tuple(number for i, number in known if tokens[i].cell is not None)
    return ByKind(video, tuple(number for i, number in known if tokens[i].cell is None))


def _percentiles(scores: Sequence[float]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (scores[i], -i))  # of equal scores the earlier token ranks higher
    rank = [0] * len(order)
    for place, i in enumerate(order):
        rank[i] = 100 * place // len(order)
    return rank


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def _hash(text: str) -> str:
    """The hash of a script or style, as a content security policy states it."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _json(value: dict[str, Any]) -> str:
    """JSON in ASCII without characters of HTML markup."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)
