"""Where a stage's figures go: a CSV file, or TensorBoard's event files. Knows nothing about what they mean."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ..errors import ModelError

Row = dict[str, float]


class Log(Protocol):
    """Takes rows of figures, each with its step."""

    def begin(self, step: int) -> None:
        """Training goes on after `step`; rows of later steps, written before a run was killed, are dropped."""

    def write(self, row: Row) -> None:
        """Add a row; it is on disk when this returns."""


class CsvLog:
    """A row a checkpoint, under one heading; a figure that is not always there leaves its place empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: int) -> None:
        self._write([row for row in self._rows() if int(row["step"]) <= step])

    def write(self, row: Row) -> None:
        said = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items()}
        self._write([*self._rows(), said])

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        """All rows anew, whole or not at all: they are few."""
        part = self.path.with_suffix(".tmp")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.path)


class BoardLog:
    """Scalars under their own names, in TensorBoard's format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(self.folder), purge_step=step + 1)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, int(row["step"]))
        self.writer.flush()


def log_of(kind: str, out: Path, stage: str) -> Log:
    """OUT/STAGE.csv, or OUT/tensorboard/STAGE."""
    return BoardLog(out / "tensorboard" / stage) if kind == "tensorboard" else CsvLog(out / f"{stage}.csv")


def check_extra(package: str, what: str) -> None:
    """ModelError where an optional package of training is missing."""
    if find_spec(package) is None:
        hint = "Install it with `pip install 'echoingpixels[train]'`."
        raise ModelError(f"{what} needs the package {package}.", hint)
