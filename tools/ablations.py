"""A table and a plot of several evaluations: `python tools/ablations.py docs/ablations.png NAME=FILE.json …`.

Each file is what `ep evaluate --json` printed over the same questions. A row is a NAME with a reducer, a column a keep
ratio; accuracy in % with its 95 % interval, and by modality the share of kept tokens that is audio.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Runs = dict[tuple[str, str], dict[float, dict[str, Any]]]


def read(arguments: list[str]) -> Runs:
    """Runs by (name, reducer), then by keep ratio."""
    found: Runs = {}
    for argument in arguments:
        name, path = argument.split("=", 1)
        for run in json.loads(Path(path).read_text())["runs"]:
            if isinstance(run["keep"], float | int):
                found.setdefault((name, run["reducer"]), {})[float(run["keep"])] = run
    return found


def table(runs: Runs) -> str:
    """Markdown."""
    keeps = sorted({keep for of in runs.values() for keep in of}, reverse=True)
    lines = ["| | reducer | " + " | ".join(f"{keep:g}" for keep in keeps) + " |", "|---" * (len(keeps) + 2) + "|"]
    for (name, reducer), of in runs.items():
        lines.append(f"| {name} | `{reducer}` | " + " | ".join(cell(of.get(keep)) for keep in keeps) + " |")
    return "\n".join(lines)


def cell(run: dict[str, Any] | None) -> str:
    """Accuracy, interval, and audio's share of what was kept."""
    if run is None or run["accuracy"] is None:
        return ""
    low, high = run["interval"]
    after = {kind: run["tokens"][kind]["after"] for kind in ("video", "audio")}
    audio = after["audio"] / max(1, sum(after.values()))
    return f"{100 * run['accuracy']:.1f} ({100 * low:.1f}–{100 * high:.1f}), {100 * audio:.0f} % audio"


def plot(runs: Runs, path: Path) -> None:
    """Accuracy by keep ratio, a line a row; the run with all tokens is a level."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for (name, reducer), of in runs.items():
        if reducer == "full":
            axes.axhline(100 * of[1.0]["accuracy"], color="0.6", linestyle="--", label=f"{name}: all tokens")
            continue
        keeps = sorted(keep for keep, run in of.items() if run["accuracy"] is not None)
        (line,) = axes.plot(keeps, [100 * of[k]["accuracy"] for k in keeps], marker="o", label=f"{name}: {reducer}")
        bounds = [[100 * of[k]["interval"][side] for k in keeps] for side in (0, 1)]
        axes.fill_between(keeps, *bounds, color=line.get_color(), alpha=0.12)
    axes.set(xscale="log", xlabel="share of audio and video tokens kept", ylabel="right answers, %")
    axes.set_xticks([0.05, 0.1, 0.2, 1], ["0.05", "0.1", "0.2", "1"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    made = read(sys.argv[2:])
    print(table(made))
    plot(made, Path(sys.argv[1]))
