"""Servers that tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tinymodel
from tests.support.served import Live, films, served


@pytest.fixture(scope="session")
def shorts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six short clips in one folder."""
    return films(tmp_path_factory.mktemp("shorts"), 6)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, shorts: list[Path]) -> Iterator[Live]:
    """A server of the random model, whose clients may name the short clips."""
    with served(tmp_path_factory.mktemp("server"), tinymodel.model, roots=(shorts[0].parent,)) as running:
        yield running
