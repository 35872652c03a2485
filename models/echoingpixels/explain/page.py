"""An explanation as one HTML file that needs nothing else. Knows nothing about how it was found.

Everything counted is counted here; the page's script only draws. Names, questions and answers travel as JSON, and the
page's own policy lets no script run but the one whose hash it names.
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
from ..inputs.patches import STEP
from .budget import Budget, over_time
from .explanation import Choice, Explanation, Token
from .pictures import jpeg, jpegs, spectrogram
from .sound import mp3


@dataclass(frozen=True)
class Halves:
    """Numbers about tokens of the picture, counted step by step and row by row, and about tokens of the sound."""

    seen: tuple[int, ...]
    heard: tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """One place of the page's slider. `kept`: places of the kept tokens; `heat`: what percentage of all tokens each
    token is rated above, None where nothing is rated."""

    reducer: str
    keep: float
    answer: str
    finish_reason: str
    kept: Halves
    heat: Halves | None
    budget: Budget
    report: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """All that the page's script is given; pictures and sound in base64, times in s."""

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
    heard_tokens: int
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
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], part["html"])  # what is filled in is not read again
    return text.encode(errors="replace")


def page(explanation: Explanation) -> Page:
    """What the page shows."""
    clip, span, sound = explanation.clip, explanation.span, spectrogram(explanation.clip)
    return Page(
        name=Path(clip.source.path).name,
        question=explanation.question,
        model=Path(explanation.model).name,
        reducer=explanation.reducer,
        belief=explanation.belief,
        nested=explanation.nested,
        remarks=(*clip.source.warnings, *clip.source.notes, *explanation.remarks),
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
        heard_tokens=span.audio_tokens,
        stops=tuple(_stop(explanation, choice) for choice in explanation.choices),
        asked=explanation.asked,
    )


def _stop(explanation: Explanation, choice: Choice) -> Stop:
    tokens = explanation.tokens
    counts = {True: count(), False: count()}
    place = [next(counts[token.cell is not None]) for token in tokens]
    return Stop(
        reducer=choice.setting.reducer,
        keep=choice.ratio,
        answer=choice.answer.text,
        finish_reason=choice.answer.finish_reason,
        kept=_halves(tokens, ((i, place[i]) for i in choice.kept)),
        heat=None if choice.scores is None else _halves(tokens, enumerate(_percentiles(choice.scores))),
        budget=over_time(explanation, choice),
        report=choice.answer.report.as_dict(),
    )


def _halves(tokens: Sequence[Token], numbers: Iterable[tuple[int, int]]) -> Halves:
    """Numbers of some tokens, parted."""
    known = tuple(numbers)
    seen = tuple(number for i, number in known if tokens[i].cell is not None)
    return Halves(seen, tuple(number for i, number in known if tokens[i].cell is None))


def _percentiles(scores: Sequence[float]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (scores[i], -i))  # the earlier token wins a tie
    rank = [0] * len(order)
    for place, i in enumerate(order):
        rank[i] = 100 * place // len(order)
    return rank


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def _hash(text: str) -> str:
    """As a content security policy names what it allows."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _json(value: dict[str, Any]) -> str:
    """JSON in plain ASCII that no HTML parser can take for markup."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)
