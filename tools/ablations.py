"""Tables and a plot of several evaluations: `python tools/ablations.py runs/ablations.png NAME=FILE.json …`.

Each file is the output of `ep evaluate --json` over the same questions. Rows are reducers by NAME, columns keep ratios:
accuracy in % with its 95 % interval, then by regime the audio share of the kept tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = dict[str, Any]
Runs = dict[tuple[str, str], dict[float, Run]]


def read(arguments: list[str]) -> Runs:
    """Runs by (name, reducer), then by keep ratio."""
    found: Runs = {}
    for argument in arguments:
        name, path = argument.split("=", 1)
        for run in json.loads(Path(path).read_text())["runs"]:
            if isinstance(run["keep"], float | int):
                found.setdefault((name, run["reducer"]), {})[float(run["keep"])] = run
    return found


def table(runs: Runs, cell: Callable[[Run], str]) -> str:
    """A Markdown table with a cell for each run."""
    keeps = sorted({keep for of in runs.values() for keep in of}, reverse=True)
    lines = ["| | reducer | " + " | ".join(f"{keep:g}" for keep in keeps) + " |", "|---" * (len(keeps) + 2) + "|"]
    for (name, reducer), of in runs.items():
        cells = (cell(of[keep]) if keep in of else "" for keep in keeps)
        lines.append(f"| {name} | `{reducer}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def right(run: Run) -> str:
    """Accuracy in % and its 95 % interval."""
    if run["accuracy"] is None:
        return ""
    low, high = run["interval"]
    return f"{100 * run['accuracy']:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def audio(run: Run) -> str:
    """The audio share of the kept tokens in %, by regime in alphabetical order."""
    shares = []
    for regime in sorted(run["tokens_by_regime"]):
        after = {kind: run["tokens_by_regime"][regime][kind]["after"] for kind in ("video", "audio")}
        shares.append(f"{100 * after['audio'] / max(1, sum(after.values())):.0f}")
    return " / ".join(shares)


def plot(runs: Runs, path: Path) -> None:
    """Accuracy by keep ratio, a line for each reducer, fused forms below. The run with all tokens is horizontal."""
    from matplotlib import pyplot

    figure, both = pyplot.subplots(2, 1, figsize=(9, 11), layout="constrained", sharey=True)
    keeps = sorted({keep for of in runs.values() for keep in of if keep < 1})
    for axes, fused in zip(both, (False, True), strict=True):
        axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)  # type: ignore[attr-defined]
        for (name, reducer), of in runs.items():
            if name.startswith("fused") != fused:
                continue
            if reducer == "full":
                axes.axhline(100 * of[1.0]["accuracy"], color="0.6", linestyle="--", label=f"{name}: all tokens")
                continue
            scored = [keep for keep in keeps if keep in of and of[keep]["accuracy"] is not None]
            places = [keeps.index(keep) for keep in scored]
            right = [100 * of[k]["accuracy"] for k in scored]
            (line,) = axes.plot(
                places, right, ":" if name == "untrained" else "-", marker="o", label=f"{name}: {reducer}"
            )
            bounds = [[100 * of[k]["interval"][side] for k in scored] for side in (0, 1)]
            axes.fill_between(places, *bounds, color=line.get_color(), alpha=0.06)
        axes.set_xticks(range(len(keeps)), ["one token" if keep < 0.01 else f"{keep:g}" for keep in keeps])
        axes.set(xlabel="share of audio and video tokens kept", ylabel="accuracy, %")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    made = read(sys.argv[2:])
    print(table(made, right))
    print()
    print(table(made, audio))
    plot(made, Path(sys.argv[1]))
