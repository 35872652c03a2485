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
    """A row a checkpoint; the first row names the columns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: int) -> None:
        if self.path.exists():
            head, *rows = self.path.read_text().splitlines(keepends=True) or [""]
            kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
            if kept:
                self.path.write_text("".join([head, *kept]))
            else:
                self.path.unlink()

    def write(self, row: Row) -> None:
        columns = list(row)
        if self.path.exists():
            with self.path.open(newline="") as file:
                columns = next(csv.reader(file))
        said = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            if not file.tell():
                writer.writeheader()
            writer.writerow(said)


class BoardLog:
    """Scalars under their own names, in TensorBoard's format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(self.folder), purge_step=step + 1)  # type: ignore[no-untyped-call]

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
