"""Imports of the library point down, level by level, without a cycle; few files stand outside its packages."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

LIBRARY = Path(__file__).parents[2] / "models/echoingpixels"
LEVELS = (
    {"errors", "options", "reducer_names", "report", "storage"},
    {"media"},
    {"inputs", "datasets", "synth"},
    {"backbones", "display"},
    {"features", "reducers", "generation"},
    {"checkpoints"},
    {"batching", "conversation", "encoded_clip", "model"},
    {"planning", "from_pretrained"},
    {"evaluation", "profiling", "explain", "batch", "train", "serving", "integrations"},
)
LEVEL = {name: number for number, names in enumerate(LEVELS, 1) for name in names}


def place(module: str) -> str:
    """The package, or module outside the packages, of a dotted name; empty for the library itself."""
    return module.split(".")[1] if "." in module else ""


def imports() -> dict[str, set[str]]:
    """The places that each place imports."""
    graph = grimp.build_graph("echoingpixels", exclude_type_checking_imports=True)
    found: dict[str, set[str]] = {place(module): set() for module in graph.modules}
    for module in graph.modules:
        found[place(module)] |= {place(one) for one in graph.find_modules_directly_imported_by(module)}
    return {name: {one for one in others if one and one != name} for name, others in found.items() if name}


def test_imports_point_down_on_at_most_nine_levels() -> None:
    found = imports()
    assert set(found) == set(LEVEL) and len(LEVELS) <= 9
    up = [f"{name} imports {other}" for name, others in found.items() for other in others if LEVEL[other] > LEVEL[name]]
    assert not up


def test_places_of_one_level_form_no_cycle_and_packages_of_one_level_are_independent() -> None:
    found = imports()
    list(TopologicalSorter(found).static_order())  # CycleError
    packages = {name for name in LEVEL if (LIBRARY / name).is_dir()}
    beside = [
        f"{name} imports {other}"
        for name in packages
        for other in found[name] & packages
        if LEVEL[other] == LEVEL[name]
    ]
    assert not beside


def test_few_files_stand_outside_the_packages() -> None:
    assert len(list(LIBRARY.glob("*.py"))) <= 10


def test_modules_and_functions_are_short() -> None:
    long = []
    for file in [*LIBRARY.rglob("*.py"), *(LIBRARY.parents[1] / "epcli").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        if len(text.splitlines()) > 300:
            long.append(file.name)
        for one in ast.walk(ast.parse(text)):
            if isinstance(one, ast.FunctionDef) and (one.end_lineno or 0) - one.lineno >= 60:
                long.append(f"{file.name}: {one.name}")
    assert not long
