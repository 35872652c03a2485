"""Writes docs/results.md: the tables of measured cells in the places of template.md."""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from echoingpixels.datasets.questions import Row
from echoingpixels.reducer_names import UNSIEVED
from echoingpixels.reducers.registry import FLOOR, REDUCERS

from .figures import UNKNOWN, Figures, every, of_full, percent, points, table
from .plan import (
    ABLATED,
    ABLATIONS,
    BEST,
    BOTH,
    BUSY,
    CHOICES,
    CLAIMS,
    DEFAULT_KEEPS,
    FIXED,
    FUSED,
    KEEPS,
    ONE_TOKEN,
    OTHERS,
    RECIPE,
    REUSE,
    SAME_PICK,
    STEPS,
    V1,
    Cell,
    wanted,
)
from .store import Store

TEMPLATE, LOGS = Path(__file__).with_name("template.md"), (Path("runs/tiny"), Path("docs/training"))
PLACE = re.compile(r"\{\{([\w-]+)\}\}")
GROUPS = {"v1": (V1.name,), "busy": (BUSY.name,), "both": BOTH}
REGIMES = (*V1.regimes, *BUSY.regimes)
OTHER_SHARES = ("diverse", "seats", "fastv")
SOUND = ("balanced", "listen", "busy")  # regimes with sound to keep
ABLATION_NAMES = {
    "two": "two layers",
    "one": "one layer",
    "four": "four layers",
    "causal": "causal attention",
    "blind": "without the question",
    "plain": "plain M-RoPE",
}


def fields(store: Store) -> dict[str, str]:
    """The text of each place of the template."""
    made = Figures(store)
    tables = {f"accuracy_{name}": accuracy(made, sets) for name, sets in GROUPS.items()}
    tables |= {f"against_{name}": against(made, BEST, other) for name, other in (("pick", SAME_PICK), ("topk", "cs2"))}
    tables |= {f"against_{name.removeprefix('cs2-')}": against(made, joint, name) for name, joint in FIXED.items()}
    tables |= {f"default_{name}": default(made, name) for name in ("random", "uniform")}
    tables |= {f"by_{name}": by(made, name) for name in ("kind", "regime")}
    return {
        **tables,
        **about(store),
        "audio": audio(made),
        "kept": kept(made),
        "floors": floors(made),
        "half_width": half_width(made),
        "ablations": ablations(made),
        "ablations_paired": ablations_paired(made),
        "fused": fused(made),
        "others": others(made),
        "reuse": reuse(made),
        "reuse_threshold": f"{REUSE:g}",
        "training": training(),
        "best": f"`{BEST}`",
        "same_pick": f"`{SAME_PICK}`",
        "unsieved": f"`{UNSIEVED}`",
        "ablated": str(ABLATED),
        "ablation_steps": str(STEPS),
    }


def render(store: Store, more: dict[str, str]) -> str:
    """The page. KeyError for a place without a text, and for a text without a place."""
    texts, template = {**fields(store), **more}, TEMPLATE.read_text(encoding="utf-8")
    unused = set(texts) - set(PLACE.findall(template))
    if unused:
        raise KeyError(f"{TEMPLATE} has no place for {', '.join(sorted(unused))}")
    return PLACE.sub(lambda place: texts[place[1]], template)


def readme(store: Store, text: str) -> str:
    """The README with its table of accuracies over both sets; unchanged without them."""
    made, keeps = Figures(store), KEEPS[:4]
    full = made.share(Cell("", "full", 1.0), BOTH)
    begin, end = (f"<!-- {mark} of the table by `make results` -->\n" for mark in ("begin", "end"))
    if full is None or begin not in text:
        return text
    rows = [
        [f"`{name}`", percent(full), *(percent(made.share(Cell("", name, keep), BOTH)) for keep in keeps)]
        for name in (BEST, UNSIEVED, "uniform")
    ]
    about = (
        f"Right answers to {full.questions:,} questions about clips outside its training set, in %, half of them about"
    )
    about += "\nbusy clips ([all figures and their commands](docs/results.md)):"
    header = ["reducer", "all tokens", *(f"keep {keep:g}" for keep in keeps)]
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n{about}\n\n{table(header, rows)}\n\n{end}{after}"


def accuracy(made: Figures, sets: Sequence[str]) -> str:
    """All reducers by keep ratio."""
    full = made.share(Cell("", "full", 1.0), sets)
    rows = [["all tokens", percent(full), *([""] * len(KEEPS))]]
    for name in CHOICES:
        shares = [of_full(made.share(Cell("", name, keep), sets), full) if _is(name) else UNKNOWN for keep in KEEPS]
        rows.append([f"`{name}`", "", *shares])
    return table(["reducer", "1", *(f"{keep:g}" for keep in KEEPS)], rows)


def against(made: Figures, ours: str, theirs: str) -> str:
    """Paired differences of two reducers, on each set and both."""
    rows = []
    for name, sets in GROUPS.items():
        pairs = [(Cell("", ours, keep), Cell("", theirs, keep)) for keep in KEEPS]
        rows.append([name, *(points(made.paired(*pair, sets)) if _is(ours, theirs) else UNKNOWN for pair in pairs)])
    return table(["set", *(f"{keep:g}" for keep in KEEPS)], rows)


def default(made: Figures, other: str) -> str:
    """The default for models without a sieve against another reducer, by regime."""
    rows = []
    for regime in REGIMES:
        pairs = [(Cell("", UNSIEVED, keep), Cell("", other, keep)) for keep in DEFAULT_KEEPS]
        rows.append([regime, *(points(made.paired(*pair, _sets(regime), _regime(regime))) for pair in pairs)])
    return table(["regime", *(f"{keep:g}" for keep in DEFAULT_KEEPS)], rows)


def kept(made: Figures) -> str:
    """Kept tokens of the reducers that keep another share than the ratio."""
    cells = {name: [Cell("", name, keep) for keep in KEEPS] for name in OTHER_SHARES if _is(name)}
    rows = [[f"`{name}`", *(percent(made.kept(cell, BOTH)) for cell in of)] for name, of in cells.items()]
    return table(["reducer", *(f"{keep:g}" for keep in KEEPS)], rows)


def floors(made: Figures) -> str:
    """Whether both modalities have their share of the budget that the default without a sieve promises."""
    found = made.lesser(Cell("", UNSIEVED, 0.05), BOTH)
    if not found:
        return UNKNOWN
    few = [one for one, both in found if one / both < FLOOR]
    text = f"in {len(found) - len(few):,} of {len(found):,} questions whose clip has both"
    return f"{text}; in the others, one modality has at most {max(few)} kept" if few else text


def audio(made: Figures) -> str:
    """The audio share of the kept tokens in the regimes with sound."""

    def cell(name: str, keep: float) -> str:
        one = Cell("", name, keep)
        return " / ".join(percent(made.audio(one, _sets(regime), _regime(regime)), 0) for regime in SOUND)

    rows = [["all tokens", cell("full", 1.0), *([""] * (len(KEEPS) - 1))]]
    rows += [[f"`{name}`", *(cell(name, keep) for keep in KEEPS)] for name in CHOICES if _is(name)]
    return table(["reducer", *(f"{keep:g}" for keep in KEEPS)], rows)


def by(made: Figures, group: str) -> str:
    """Two reducers by kind or regime, over both sets."""
    rows = [row for name in BOTH for row in made.store.rows(Cell(name, "full", 1.0))]
    columns = [("full", 1.0), *((name, keep) for name in (BEST, UNSIEVED) for keep in KEEPS[1:4])]
    lines = []
    for name in sorted({getattr(row, group) for row in rows}):
        chosen = _where(group, name)
        shares = (percent(made.share(Cell("", *column), BOTH, chosen)) for column in columns)
        lines.append([name, str(made.number(Cell("", "full", 1.0), BOTH, chosen)), *shares])
    short = {"full": "all tokens", BEST: "sieve", UNSIEVED: "none"}
    header = [group, "questions", *(f"{short[name]} {keep:g}".removesuffix(" 1") for name, keep in columns)]
    return table(header, lines)


def ablations(made: Figures) -> str:
    """Accuracy of each variant of the sieve."""
    return _variants(ABLATIONS, lambda cell: percent(made.share(cell, BOTH)))


def ablations_paired(made: Figures) -> str:
    """Paired differences of the variants to the first."""
    return _variants(ABLATIONS[1:], lambda cell: points(made.paired(cell, replace(cell, sieve=ABLATIONS[0]), BOTH)))


def _variants(names: Iterable[str], of: Callable[[Cell], str]) -> str:
    keeps = KEEPS[1:4]
    rows = [[ABLATION_NAMES[name], *(of(Cell("", BEST, keep, name, ABLATED)) for keep in keeps)] for name in names]
    return table(["sieve", *(f"{keep:g}" for keep in keeps)], rows)


def fused(made: Figures) -> str:
    """The fused form, and random tokens behind the same encoder."""
    keeps = (0.2, 0.05, ONE_TOKEN)
    rows = [
        [f"`{name}`", *(percent(made.share(Cell("", name, keep, FUSED, ABLATED), BOTH)) for keep in keeps)]
        for name in ("cs2", "cs2-random")
    ]
    return table(["fused sieve", "0.2", "0.05", "one token"], rows)


def others(made: Figures) -> str:
    """Clips of another generator."""
    columns = list(dict.fromkeys((cell.reducer, cell.keep) for cell in CLAIMS["others"]))
    names = list(dict.fromkeys(name for name, _ in columns if name != "full"))
    keeps = sorted({keep for _, keep in columns if keep < 1}, reverse=True)
    rows = []
    for one in OTHERS:
        full = made.share(Cell("", "full", 1.0), [one.name])
        rows.append([one.name.removeprefix("other-"), "all tokens", percent(full), *([""] * len(keeps))])
        for name in names:
            shares = (of_full(made.share(Cell("", name, keep), [one.name]), full) for keep in keeps)
            rows.append(["", f"`{name}`", "", *shares])
    return table(["set", "reducer", "1", *(f"{keep:g}" for keep in keeps)], rows)


def reuse(made: Figures) -> str:
    """Reused encoder features against features of every window."""
    cells = [replace(cell, questions=ABLATED) for cell in (Cell("", "full", 1.0), Cell("", BEST, 0.1))]
    cells.append(replace(cells[1], reducer=UNSIEVED))
    rows = []
    for name, sets in GROUPS.items():
        for text, of in (("off", None), (f"{REUSE:g}", REUSE)):
            rows.append([name, text, *(percent(made.share(replace(cell, reuse=of), sets)) for cell in cells)])
        pairs = ((replace(cell, reuse=REUSE), cell) for cell in cells)
        rows.append([name, "difference", *(points(made.paired(*pair, sets)) for pair in pairs)])
    return table(["set", "reuse", "all tokens", *(f"`{cell.reducer}` {cell.keep:g}" for cell in cells[1:])], rows)


def half_width(made: Figures) -> str:
    """Half of the widest 95 % interval of the accuracies of a set, in points."""
    cells = (cell for cell in CLAIMS["accuracy"])
    found = [share.interval for cell in cells if (share := made.share(cell, [cell.of])) and share.interval]
    return f"{max(50 * (high - low) for low, high in found):.1f}" if found else UNKNOWN


def about(store: Store) -> dict[str, str]:
    """The model's fingerprint and size, and what the cells were made with and how long it took."""
    answers = [found for cell in wanted() if (found := store.get(cell)) is not None]

    def span(name: str) -> str:
        values = sorted({one.made.get(name, UNKNOWN) for one in answers})
        return " to ".join(dict.fromkeys([values[0], values[-1]])) if values else UNKNOWN

    folder = store.place
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    seconds = sum(one.seconds for one in answers)
    made = {name: span(name) for name in ("date", "machine", "torch", "transformers")}
    cells = f"{len(answers)} of {sum(1 for _ in wanted())}"
    return made | {"mark": store.mark, "size": f"{size:.1f}", "hours": f"{seconds / 3600:.1f}", "cells": cells}


def training() -> str:
    """The stages of the recipe: steps and minutes from their logs."""
    rows = []
    for stage in tomllib.loads(RECIPE.read_text(encoding="utf-8"))["stage"]:
        log = next((path for at in LOGS if (path := at / f"{stage['name']}.csv").exists()), None)
        steps, minutes = (UNKNOWN, UNKNOWN) if log is None else _log(log)
        rows.append([stage["name"], stage["task"], str(stage["steps"]), steps, minutes])
    return table(["stage", "task", "steps of the recipe", "steps done", "minutes"], rows)


def _log(path: Path) -> tuple[str, str]:
    """The last step, and the minutes; `seconds` restart where a stage was resumed."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row["seconds"]) for row in rows] or [0.0]
    ends = [a for a, b in zip(seconds, [*seconds[1:], 0.0], strict=True) if b < a]
    return rows[-1]["step"] if rows else UNKNOWN, f"{sum(ends) / 60:.0f}"


def _is(*names: str) -> bool:
    return all(name in REDUCERS for name in names)


def _sets(regime: str) -> tuple[str, ...]:
    return (BUSY.name,) if regime in BUSY.regimes else (V1.name,)


def _regime(name: str) -> Callable[[Row], bool]:
    return _where("regime", name)


def _where(group: str, name: str) -> Callable[[Row], bool]:
    return (lambda row: getattr(row, group) == name) if name else every
