"""An explanation as one HTML file without external parts.

This module computes all numbers; the page's script only draws them. Names, questions and answers are passed as JSON.
The page's content security policy allows no script except the one whose hash it states.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..checkpoints.loading import ASSETS
from ..display.budget import KeptOverTime, over_time
from ..display.view import ClipView, view_of
from ..generation.evidence import Moment
from ..inputs.kept import ByKind
from .explanation import Choice, Explanation


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
    """The data of the page's script."""

    name: str
    question: str
    model: str
    reducer: str
    belief: str
    nested: bool
    remarks: tuple[str, ...]
    clip: ClipView
    stops: tuple[Stop, ...]
    asked: int


def render(explanation: Explanation) -> bytes:
    """The HTML file."""
    html_, css, js = (_part(f"explain.{ending}") for ending in ("html", "css", "js"))
    clip, clip_css, clip_js = (_part(f"clip.{ending}") for ending in ("html", "css", "js"))
    css, js = clip_css + css, clip_js + js
    filled = {
        "title": html.escape(f"{Path(explanation.clip.source.path).name}: {explanation.question}"),
        "clip": clip,
        "css": css,
        "css_hash": _hash(css),
        "js": js,
        "js_hash": _hash(js),
        "data": _json(asdict(page(explanation))),
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], html_)  # one pass: filled-in text is not expanded
    return text.encode(errors="replace")


def page(explanation: Explanation) -> Page:
    """The data of the page."""
    return Page(
        name=Path(explanation.clip.source.path).name,
        question=explanation.question,
        model=Path(explanation.model).name,
        reducer=explanation.reducer,
        belief=explanation.belief,
        nested=explanation.nested,
        remarks=explanation.remarks,
        clip=view_of(explanation.clip, explanation.span),
        stops=tuple(_stop(explanation, choice) for choice in explanation.choices),
        asked=explanation.asked,
    )


def _stop(explanation: Explanation, choice: Choice) -> Stop:
    kept, scores = explanation.kept(choice), choice.scores
    return Stop(
        reducer=choice.setting.reducer,
        keep=choice.setting.keep,
        answer=choice.answer.text,
        finish_reason=choice.answer.finish_reason,
        kept=kept,
        heat=None if scores is None else explanation.by_kind(enumerate(_percentiles(scores))),
        budget=over_time(explanation.clip.duration, explanation.span, kept),
        moments=choice.answer.evidence.moments,
        evidence=str(choice.answer.evidence),
        report=choice.answer.report.as_dict(),
    )


def _percentiles(scores: Sequence[float]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (scores[i], -i))  # of equal scores the earlier token ranks higher
    rank = [0] * len(order)
    for place, i in enumerate(order):
        rank[i] = 100 * place // len(order)
    return rank


def _part(name: str) -> str:
    """A file of the page."""
    return (ASSETS / "pages" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """The hash of a script or style, as a content security policy states it."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _json(value: dict[str, Any]) -> str:
    """JSON in ASCII without characters of HTML markup."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)
