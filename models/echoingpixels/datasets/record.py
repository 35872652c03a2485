"""One JSON record of a question file, with checked access to its keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from ..errors import DataError
from ..options import is_unicode


@dataclass(frozen=True)
class Record:
    """A JSON object.

    `where`: file and place, for error messages. `number`: its place in the file, from 1. `needs_answer`: whether a
    record without an answer is an error.
    """

    fields: Mapping[str, Any]
    where: str
    number: int
    needs_answer: bool = True

    def text(self, key: str) -> str:
        """A text that is not blank; a number is converted to text. DataError for anything else."""
        value = self.fields.get(key)
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if not (_is_text(text) and text.strip()):
            raise self.error(f"has {key} {value!r}, not text" if key in self.fields else f"has no {key}")
        return text.strip()

    def label(self, key: str) -> str:
        """A value to group by, as text: a list's parts joined, empty where the record has none."""
        value = self.fields.get(key)
        if isinstance(value, list):
            return ", ".join(str(part).strip() for part in value if str(part).strip())
        return "" if value is None else str(value).strip()

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, or a text that holds such a list as JSON. DataError for anything else."""
        value = self.fields.get(key)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise self.error(f"has {key} {value!r}, not a list") from None
        if not isinstance(value, list) or not all(isinstance(one, int | float) or _is_text(one) for one in value):
            raise self.error(f"has {key} {value!r}, not a list of texts" if key in self.fields else f"has no {key}")
        return tuple(str(one).strip() for one in value)

    def part(self, name: str, value: object) -> Record:
        """An object inside this record, as a record. DataError for anything else."""
        if not isinstance(value, dict):
            raise self.error(f"has {name} {value!r}, not an object")
        return replace(self, fields=value, where=f"{self.where}, {name}")

    def error(self, problem: str, hint: str = "Fix it, or choose another --format.") -> DataError:
        """An error about this record."""
        return DataError(f"{self.where} {problem}.", hint)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and is_unicode(value)
