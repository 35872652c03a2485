"""A profile as tables and as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .evaluation import Table
from .report import big

if TYPE_CHECKING:
    from echoingpixels.profiling.measurements import Measured, Spread
    from echoingpixels.profiling.profile import Profile

LONGEST = 40  # characters of an answer
UNKNOWN = "–"  # not measured


def tables(profile: Profile) -> list[Table]:
    """Three tables with one row per setting: size, time, and speedup with agreement."""
    return [_table([cells(run) for run in profile.runs]) for cells in (_size, _times, _gains)]


def write_csv(profile: Profile, path: Path) -> None:
    """Write one row per setting; columns are the JSON keys joined by dots, such as `time_s.total`."""
    rows = [dict(_flat(run.as_dict())) for run in profile.runs]
    columns = list(dict.fromkeys(name for row in rows for name in row))  # rows without a measurement lack its extremes
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers of nested objects, an interval as two; lists are left out."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, tuple):
            yield from ((f"{above}{name}.min", value[0]), (f"{above}{name}.max", value[1]))
        elif not isinstance(value, list):
            yield f"{above}{name}", value


def _table(rows: list[dict[str, str]]) -> Table:
    return list(rows[0]), [list(row.values()) for row in rows]


def _setting(run: Measured) -> dict[str, str]:
    return {"reducer": run.setting.reducer, "keep": f"{run.setting.keep:g}"}


def _size(run: Measured) -> dict[str, str]:
    """Cells by column."""
    return {
        **_setting(run),
        **{kind: f"{count.before} → {count.after}" for kind, count in vars(run.tokens).items() if count.before},
        "compute": big(run.flops.reduced, "FLOP"),
        "peak memory": _bytes(run.memory_bytes["peak"]),
        "LLM's peak": _bytes(run.memory_bytes["peak_llm"]),
    }


def _times(run: Measured) -> dict[str, str]:
    """Cells by column."""
    return {
        **_setting(run),
        **{name: _time(run.time_s[name]) for name in ("encode", "select", "prefill")},
        "first token": _time(run.time_s["first_token"]),
        "tok/s": f"{run.tokens_per_s.median:.1f}" if run.tokens_per_s else UNKNOWN,
        "total (min–max)": _time(run.time_s["total"], extremes=True),
    }


def _gains(run: Measured) -> dict[str, str]:
    """Cells by column."""
    cells = {
        **_setting(run),
        "speedup (min–max)": _ratio(run.measured),
        "LLM alone (min–max)": _ratio(run.llm),
        "agreement": f"{100 * run.agreement:.0f} %",
    }
    if run.score is not None:
        cells["right"] = UNKNOWN if run.score.accuracy is None else f"{100 * run.score.accuracy:.1f} %"
    if len(run.replies) == 1:
        cells["answer"] = _short(run.replies[0].text)
    return cells


def _short(text: str) -> str:
    """One line without control characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _time(spread: Spread | None, extremes: bool = False) -> str:
    if spread is None:
        return UNKNOWN
    by, unit = (1, "s") if spread.median >= 1 else (1000, "ms")
    digits = 2 if by == 1 else 1 if spread.median < 0.01 else 0
    middle, low, high = (f"{by * value:.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return f"{middle} {unit} ({low}–{high})" if extremes else f"{middle} {unit}"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} × ({spread.low:.2f}–{spread.high:.2f})"


def _bytes(spread: Spread | None) -> str:
    return big(spread.median, "B") if spread else UNKNOWN
