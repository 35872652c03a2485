"""The lists of slow tests and of tests of versions name tests that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SLOW, VERSIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("entry", sorted({*SLOW, *VERSIONS}))
def test_a_listed_test_exists(entry: str) -> None:
    file, _, name = entry.partition("::")
    assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")
