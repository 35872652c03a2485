"""The plot of docs/results.md: accuracy by keep ratio, a panel for each set and a line for each reducer."""

from __future__ import annotations

from pathlib import Path

from .figures import Figures
from .page import GROUPS
from .plan import BEST, CHOICES, KEEPS, SAME_PICK, Cell

BOLD = (BEST, SAME_PICK)


def draw(made: Figures, path: Path) -> None:
    """Write the plot; lines that are not measured are absent."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(GROUPS), figsize=(15, 5.5), layout="constrained", sharey=True)
    for axes, (title, sets) in zip(panels, GROUPS.items(), strict=True):
        axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)
        full = made.share(Cell("", "full", 1.0), sets)
        if full is not None and full.difference is not None:
            axes.axhline(100 * full.difference, color="0.5", linestyle="--", label="all tokens")
        for name in CHOICES:
            shares = [made.share(Cell("", name, keep), sets) for keep in KEEPS]
            known = [(i, 100 * one.difference) for i, one in enumerate(shares) if one and one.difference is not None]
            width = 2.5 if name in BOLD else 1.2
            if known:
                axes.plot(*zip(*known, strict=True), marker="o", markersize=4, linewidth=width, label=name)
        axes.set_xticks(range(len(KEEPS)), [f"{keep:g}" for keep in KEEPS])
        axes.set(title=title, xlabel="share of audio and video tokens kept")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, %")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", fontsize=9)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
