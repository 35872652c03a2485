"""The error of a recipe that is not valid: one sentence about the first thing that is wrong."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from ..errors import DataError


def refusal(path: Path, kind: type[Any], error: ValidationError) -> DataError:
    """The error of a recipe of this kind, as pydantic found it."""
    first = error.errors(include_url=False)[0]
    place = first["loc"]
    *tables, key = [part for part in place if isinstance(part, str)]
    if tables[1:] == ["keep"]:  # a phase is written as a list
        *tables, key = tables
    number = f" {int(place[1]) + 1}" if tables[:1] == ["stage"] else ""
    where = f"{path}, [{'.'.join(tables)}]{number}," if tables else str(path)
    for table in tables:
        annotation = kind.__pydantic_fields__[table].annotation
        kind = next(one for one in (annotation, *get_args(annotation)) if is_dataclass(one))  # type: ignore[assignment]
    if first["type"] == "missing":
        return DataError(f"{where} lacks {key}.", "A stage needs name and task, and steps or epochs.")
    if first["type"] == "unexpected_keyword_argument":
        known = listed(sorted(kind.__pydantic_fields__))
        return DataError(f"{where} has an unknown key {key!r}.", f"Known keys: {known}.")
    return DataError(f"{where} has {key} = {first['input']!r}.", f"{first['msg']}.")


def listed(names: Any) -> str:
    """Names in a sentence."""
    return ", ".join(map(str, names))
