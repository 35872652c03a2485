"""Measures what is not measured yet and writes docs/results.md: `python -m tools.results --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epcli.console import say

from . import evidence
from .figures import Figures
from .measure import measure
from .page import readme, render
from .plan import CLAIMS, OUT, wanted
from .plot import draw
from .store import Store

QUICK = 100  # questions of a set
DOCS, README = Path("docs"), Path("README.md")


def main(
    only: Annotated[
        list[str] | None, typer.Option(help=f"A claim: {', '.join(CLAIMS)}, evidence. Repeatable; all by default.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} questions of each set; docs/ stays.")] = False,
    measuring: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure, or only write the page.")] = True,
    model: Annotated[str, typer.Option(help="A known name or a folder, for a trial; docs/ is about tiny.")] = "tiny",
    out: Annotated[Path, typer.Option(help="The folder of question sets and cells. Delete a cell to repeat it.")] = OUT,
) -> None:
    """Answer the questions of every cell that is not stored, then write the page, its plot and the table of the README.

    An interrupted run continues. Other models than tiny, and quick runs, write to OUT/quick.
    """
    unknown = set(only or ()) - {*CLAIMS, "evidence"}
    if unknown:
        raise typer.BadParameter(f"no claim {', '.join(sorted(unknown))}", param_hint="--only")
    store = Store(out, model, QUICK) if quick else Store(out, model)
    if measuring:
        measure(store, wanted([name for name in only or CLAIMS if name in CLAIMS]) if only != ["evidence"] else [])
        if not only or "evidence" in only:
            evidence.measure(store)
    to = out / "quick" if quick or model != "tiny" else DOCS
    if to == DOCS:
        README.write_text(readme(store, README.read_text(encoding="utf-8")), encoding="utf-8")
    to.mkdir(parents=True, exist_ok=True)
    (to / "results.md").write_text(render(store, evidence.fields(store)), encoding="utf-8")
    draw(Figures(store), to / "results.png")
    say(f"written: {to / 'results.md'}")


if __name__ == "__main__":
    typer.run(main)
