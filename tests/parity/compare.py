"""Compare this implementation, number by number, with a folder of recorded ones: `python -m tests.parity FIXTURE_DIR`.

Takes every fixture format (the published model's numbers; transformers' processor's; those of SEATS) and every option
from the folder itself. Exit codes: 0 everything within its bound; 1 something is past it, or was recorded and not
understood; 2 the folder cannot be used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.parity.tally import FixtureError, Tally


def load_manifest(folder: Path) -> Any:
    """The manifest of a fixture folder: a dict (reference, SEATS) or a list (processor)."""
    if not folder.is_dir():
        raise FixtureError(f"no such folder: {folder}")
    path = folder / "manifest.json"
    if not path.is_file():
        raise FixtureError(f"no manifest.json in {folder}")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise FixtureError(f"{path} is not JSON: {error}") from error


def compare(folder: Path) -> Tally:
    """Compare a folder of any format; FixtureError when there is nothing to compare."""
    manifest = load_manifest(folder)
    torch.set_num_threads(1)  # for models this small, more threads only wait for each other
    tally = Tally()
    if isinstance(manifest, dict) and "cases" in manifest:
        from tests.parity.reference import compare_reference

        compare_reference(folder, manifest, tally)
    elif isinstance(manifest, dict) and "stage2" in manifest:
        from tests.parity.seats import compare_seats

        compare_seats(folder, manifest, tally)
    elif isinstance(manifest, list):
        from tests.parity.processor import compare_processor

        compare_processor(folder, manifest, tally)
    else:
        raise FixtureError(f"{folder / 'manifest.json'} is of no known format (a dict with cases or stages, or a list)")
    if not tally.numbers:
        raise FixtureError(f"nothing to compare in {folder}")
    return tally


def main(arguments: list[str]) -> int:
    """Run the comparison, print its report, return the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m tests.parity FIXTURE_DIR", file=sys.stderr)
        return 2
    try:
        tally = compare(Path(arguments[0]))
    except FixtureError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    print(tally.report())
    return 0 if tally.ok else 1
