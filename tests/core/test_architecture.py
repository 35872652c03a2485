"""Imports of the library point down, level by level, without a cycle; few files stand outside its packages."""

from __future__ import annotations

from pathlib import Path

import grimp

LIBRARY = Path(__file__).parents[2] / "models/echoingpixels"
LEVELS = (
    {"errors", "report"},
    {"options", "memory_errors", "storage"},
    {"media"},
    {"inputs", "datasets", "synth"},
    {"backbones"},
    {"features", "reducers", "generation"},
    {"checkpoints", "encoded_clip"},
    {"model"},
    {"planning", "batched", "looking"},
    {"from_pretrained", "evaluation", "explain"},
    {"batch", "profiling", "train", "integrations"},
)
LEVEL = {name: number for number, names in enumerate(LEVELS, 1) for name in names}


def place(module: str) -> str:
    """The package, or module outside the packages, of a dotted name; empty for the library itself."""
    return module.split(".")[1] if "." in module else ""


def test_imports_point_down() -> None:
    graph = grimp.build_graph("echoingpixels", exclude_type_checking_imports=True)
    assert {place(module) for module in graph.modules} - {""} == set(LEVEL)
    up = [
        f"{module} imports {imported}"
        for module in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if place(imported) != place(module) and LEVEL.get(place(imported), 0) >= LEVEL.get(place(module), 99)
    ]
    assert not up


def test_few_files_stand_outside_the_packages() -> None:
    assert len(list(LIBRARY.glob("*.py"))) <= 10


def test_the_page_names_every_place() -> None:
    page = (LIBRARY.parent.parent / "docs/architecture.md").read_text(encoding="utf-8")
    for number, names in enumerate(LEVELS, 1):
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {number} |"))
        assert all(f"`{name}" in line for name in names), line
