"""The results of a run as Markdown: the facts, and a table for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gpu.rows import OK, Row
from echoingpixels.profiling.measurements import Spread

Form = Callable[[Any], str]


@dataclass(frozen=True)
class Column:
    """One figure of the rows, by its key. `form`: how a value that is not None is written."""

    title: str
    key: str
    form: Form = str


def number(pattern: str, scale: float = 1.0, unit: str = "", spread: bool = False) -> Form:
    """A figure, or the median of one; with `spread` its extremes too."""

    def form(value: Any) -> str:
        if not isinstance(value, Spread):
            return f"{value * scale:{pattern}}{unit}"
        middle, low, high = (f"{one * scale:{pattern}}" for one in (value.median, value.low, value.high))
        return f"{middle}{unit} ({low}–{high})" if spread and low != high else f"{middle}{unit}"

    return form


MS, MS_SPREAD = number(".3g", 1e3), number(".4g", 1e3, spread=True)
RATIO, RATE = number(".2f", unit=" ×", spread=True), number(".1f", spread=True)
GB = number(".3g", 1e-9)
WAY = Column("reducer", "reducer"), Column("keep", "keep", number("g")), Column("kept", "kept", number(".0f"))
SPEED = (
    Column("select", "select_s", MS),
    Column("prefill", "prefill_s", MS),
    Column("first token, ms", "first_token_s", MS_SPREAD),
    Column("× first way", "speedup", RATIO),
    Column("tokens/s", "tokens_per_s", RATE),
    Column("peak GB", "peak_bytes", GB),
)


@dataclass(frozen=True)
class Section:
    """A question, and the columns of the rows that answer it."""

    question: str
    columns: tuple[Column, ...]


SECTIONS = {
    "parity": Section(
        "Does it compute what plain transformers computes?",
        (
            Column("comparison", "case"),
            Column("largest difference of logits", "logit_difference", number(".2g")),
            Column("largest logit", "largest_logit", number(".3g")),
            Column("equal tokens", "equal_tokens", number(".1%")),
            Column("features differ by", "feature_difference", number(".2g")),
        ),
    ),
    "stages": Section(
        "What does a question cost? Milliseconds of one batch, the clip included",
        (
            Column("batch", "batch"),
            *WAY,
            Column("decode", "decode_s", MS),
            Column("prepare", "prepare_s", MS),
            Column("encode", "encode_s", MS),
            *SPEED[:4],
            Column("× select and prefill", "llm_speedup", RATIO),
            *SPEED[4:],
        ),
    ),
    "encoders": Section(
        "What do the encoders cost? Milliseconds, alone",
        (
            Column("attention", "attention"),
            Column("encoder keep", "encoder_keep"),
            Column("video tokens", "video_tokens"),
            Column("video", "video_s", MS_SPREAD),
            Column("× first way", "speedup", RATIO),
            Column("audio", "audio_s", MS_SPREAD),
            Column("peak GB", "peak_bytes", GB),
        ),
    ),
    "waits": Section(
        "Where does the host wait for the GPU before the first token?",
        (
            Column("reducer", "case"),
            Column("stage", "stage"),
            Column("waits", "count"),
            Column("at", "places", lambda places: ", ".join(f"{at} ({n})" for at, n in places.items())),
        ),
    ),
    "decoding": Section(
        "How fast is decoding, by KV cache?",
        (
            Column("batch", "batch"),
            Column("cache", "decoding"),
            *WAY,
            Column("tokens/s", "tokens_per_s", RATE),
            Column("× first way", "decoding_speedup", RATIO),
            Column("peak GB", "peak_bytes", GB),
        ),
    ),
    "quantization": Section(
        "What does quantization cost and save?",
        (Column("quant", "quant"), Column("weights GB", "weights_bytes", GB), *WAY, *SPEED),
    ),
}


def markdown(facts: dict[str, Any], sections: dict[str, list[Row]], seconds: float) -> str:
    """The whole report."""
    lines = [f"# {facts['model']}, {facts['weights']} weights, on {facts['device']}", ""]
    lines += [f"- {_fact(name, value)}" for name, value in facts.items()]
    lines += [f"- run: {seconds:.0f} s; medians (least–most) of the rounds that count", ""]
    for name, rows in sections.items():
        lines += [f"## {SECTIONS[name].question}", "", *_table(SECTIONS[name].columns, rows), ""]
    return "\n".join(lines)


def _fact(name: str, value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{part} {one}" for part, one in value.items())
    if name.endswith("_bytes"):
        name, value = name.removesuffix("_bytes"), f"{value / 1e9:.1f} GB"
    return f"{name.replace('_', ' ')}: {value}"


def _table(columns: Sequence[Column], rows: list[Row]) -> Iterator[str]:
    """Columns without a value in any row are left out; rows that are no measurement have their reason in the last."""
    used = [one for one in columns if any(row.get(one.key) is not None for row in rows)] or list(columns[:1])
    noted = any(row["state"] != OK for row in rows)
    yield _line([*(one.title for one in used), *(["note"] if noted else [])])
    yield "|" + "---|" * (len(used) + noted)
    for row in rows:
        cells = ["" if row.get(one.key) is None else one.form(row[one.key]) for one in used]
        yield _line([*cells, *([_note(row)] if noted else [])])


def _note(row: Row) -> str:
    return "" if row["state"] == OK else f"{row['case']}: {row['state']} ({row['note']})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
