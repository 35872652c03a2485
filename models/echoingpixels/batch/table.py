"""The finished rows as a Parquet or CSV table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError
from .journal import read_journal
from .result import COLUMNS, MOMENT, flat

JSONL, PARQUET, CSV = ".jsonl", ".parquet", ".csv"
ENDINGS = (JSONL, PARQUET, CSV)
AT_ONCE = 8192  # rows of a Parquet file's row group


def journal_path(out: Path) -> Path:
    """The journal of `out`: `out` itself, or a JSONL file beside the table."""
    return out if out.suffix.lower() == JSONL else out.with_name(out.name + JSONL)


def check_table(out: Path) -> None:
    """DataError if the package that writes this format is missing."""
    if out.suffix.lower() == PARQUET:
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            hint = "Install it with `pip install 'echoingpixels[table]'`, or give a name that ends with .csv or .jsonl."
            raise DataError(f"{out} needs the package pyarrow.", hint) from error


def write_table(journal: Path, out: Path) -> None:
    """Write the table of a journal; an earlier table is replaced atomically. DataError if it cannot be written."""
    beside = out.with_name(f".{out.name}.new")
    write = _parquet if out.suffix.lower() == PARQUET else _csv
    try:
        write(map(flat, read_journal(journal)), beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, out)
    except OSError as error:
        beside.unlink(missing_ok=True)
        reason = (error.strerror or str(error)).lower()
        hint = f"All rows are in {journal}: make room, and go on with --resume."
        raise DataError(f"{out} cannot be written: {reason}.", hint) from error


def _csv(rows: Iterable[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {"tokens": pa.int64(), "time_s": pa.float64(), "cached": pa.bool_(), "said": pa.int64()}
    numbers = {name: pa.float64() for name in ("start", "end", "keep", "kept_ratio", "tokens_per_s")}
    numbers |= {f"evidence_{name}": pa.float64() for name in MOMENT}
    schema = pa.schema([(name, numbers.get(name) or types.get(_kind(name), pa.string())) for name in COLUMNS])
    with ParquetWriter(path, schema) as writer:
        while part := list(islice(rows, AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(part, schema))


def _kind(column: str) -> str:
    return next((kind for kind in ("tokens", "time_s") if column.startswith(kind)), column)
