"""A profile as a picture: speed, memory and agreement against the keep ratio, one line a reducer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EpError
from .measurements import FULL, Measured, Spread

if TYPE_CHECKING:
    from .profile import Profile

ENDINGS = (".png", ".svg")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")  # Okabe and Ito's: safe for all
MARKERS = "os^DvPX"
MARGIN = 1.2  # factor beside the smallest and the largest ratio
ASIDE = 1.03  # factor between the points of two reducers, so that none hides another
SIZE, DPI = (4.0, 3.6), 150  # inches of one panel, pixels an inch


@dataclass(frozen=True)
class Panel:
    """One quantity. `value`: None if it was not measured. `most`: the end of its axis, if any."""

    title: str
    value: Callable[[Measured], Spread | None]
    most: float | None = None


def check_plot() -> None:
    """EpError if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EpError(
            "A plot needs the package matplotlib.", "Install it: `pip install 'echoingpixels[plot]'`."
        ) from error


def draw(profile: Profile, path: Path) -> None:
    """Write a PNG or SVG; a panel without measurements is marked."""
    check_plot()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = _panels(profile.runs)
    figure = Figure(figsize=(SIZE[0] * len(panels), SIZE[1]), layout="constrained")
    clips, repeats = len(profile.runs[0].replies), profile.options.repeat
    title = f"{profile.model}: medians and extremes of {repeats} rounds, {clips} clip{'s' if clips > 1 else ''}"
    figure.suptitle(title, parse_math=False)  # a model's folder may have a dollar in its name
    every = figure.subplots(1, len(panels))
    for panel, axes in zip(panels, every, strict=True):
        _draw(panel, profile.runs, axes)
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS) + 1)
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, format=path.suffix[1:].lower(), dpi=DPI)


def _panels(runs: Sequence[Measured]) -> list[Panel]:
    panels = [
        Panel("speedup, end to end", lambda run: run.measured),
        Panel("speedup, LLM alone", lambda run: run.llm),
        Panel("peak memory, GB", lambda run: _scaled(run.memory_bytes["peak"], 1e-9)),
        Panel("agreement with all tokens, %", lambda run: Spread.of([100 * run.agreement]), 100),
    ]
    if any(run.score for run in runs):
        panels.append(Panel("questions right, %", _accuracy, 100))
    return panels


def _draw(panel: Panel, runs: Sequence[Measured], axes: Any) -> None:
    keeps = sorted({run.setting.keep for run in runs})
    axes.set(title=panel.title, xlabel="tokens kept, %", xscale="log")
    axes.set_xticks(keeps, [f"{100 * keep:g}" for keep in keeps])
    axes.minorticks_off()
    axes.set_xlim(keeps[0] / MARGIN, keeps[-1] * MARGIN)
    axes.grid(alpha=0.3)
    for i, reducer in enumerate(dict.fromkeys(run.setting.reducer for run in runs if run.setting != FULL)):
        mine = [(run.setting.keep, panel.value(run)) for run in runs if run.setting.reducer == reducer]
        known = sorted((keep * ASIDE**i, one.median, one.low, one.high) for keep, one in mine if one)
        if known:
            x, y, low, high = map(np.array, zip(*known, strict=True))
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            axes.errorbar(x, y, (y - low, high - y), capsize=3, label=reducer, **style)
    whole = panel.value(next(run for run in runs if run.setting == FULL))
    if whole is None:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
        return
    axes.axhline(whole.median, color="0.4", linestyle="--", label="all tokens")
    top = panel.most or axes.get_ylim()[1]
    axes.set_ylim(-0.05 * top, 1.05 * top)  # from zero, so that noise appears small


def _scaled(value: Spread | None, by: float) -> Spread | None:
    return value and Spread(by * value.median, by * value.low, by * value.high)


def _accuracy(run: Measured) -> Spread | None:
    """With its 95 % interval."""
    score = run.score
    if score is None or score.accuracy is None or score.interval is None:
        return None
    return Spread(100 * score.accuracy, 100 * score.interval[0], 100 * score.interval[1])
