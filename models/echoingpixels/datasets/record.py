"""One record of a question file, read key by key, and what is asked in it. Knows nothing about any one set's keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ..options import is_unicode


@dataclass(frozen=True)
class Item:
    """One question of a set.

    `clip`: names its file may have, the likeliest first, with or without ending. `answer`: an option's letter, text or
    index from 0, or what is right where there are no options. `id` empty: its place in the file.
    """

    clip: tuple[str, ...]
    question: str
    answer: str | int
    options: tuple[str, ...] = ()
    kind: str = ""
    regime: str = ""
    id: str = ""


@dataclass(frozen=True)
class Record:
    """A JSON object and where it stands, for error messages; and whether it has to have an answer."""

    said: Mapping[str, Any]
    where: str
    answered: bool = True

    def text(self, key: str) -> str:
        """A text that says something; numbers are taken as text. DataError otherwise."""
        value = self.said.get(key)
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if not (isinstance(text, str) and text.strip() and is_unicode(text)):
            raise self.error(f"has {key} {value!r}, not text" if key in self.said else f"has no {key}")
        return text.strip()

    def word(self, key: str) -> str:
        """What a key says, for grouping: empty where it says nothing, a list's parts joined."""
        value = self.said.get(key)
        if isinstance(value, list):
            return ", ".join(str(part).strip() for part in value if str(part).strip())
        return "" if value is None else str(value).strip()

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, perhaps as JSON inside a text; DataError otherwise."""
        value = self.said.get(key)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                raise self.error(f"has {key} {value!r}, which is no list") from None
        if not isinstance(value, list) or not all(isinstance(one, str | int | float) for one in value):
            raise self.error(f"has {key} {value!r}, not a list of texts" if key in self.said else f"has no {key}")
        return tuple(str(one).strip() for one in value)

    def part(self, key: str, value: object) -> Record:
        """An object inside this one."""
        if not isinstance(value, dict):
            raise self.error(f"has {key} {value!r}, not an object")
        return Record(value, f"{self.where}, {key}")

    def error(self, what: str, hint: str = "Mend it, or choose another --format.") -> DataError:
        """What to say of this record."""
        return DataError(f"{self.where} {what}.", hint)
