"""Clip durations as question sets write them, in seconds, and their classes."""

from __future__ import annotations

import re

PARTS = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
UNITS = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|secs|seconds?|m|min|mins|minutes?)?")
CLASSES = ((60.0, "up to 1 min"), (300.0, "1 to 5 min"), (600.0, "5 to 10 min"), (1800.0, "10 to 30 min"))
LONGEST = "over 30 min"


def seconds_of(value: object) -> float | None:
    """Seconds from 208, "208", "30s", "2 min", "03:28" or "1:02:03"; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip().lower()
    if parts := PARTS.fullmatch(text):
        hours, minutes, seconds = (float(part or 0) for part in parts.groups())
        return 3600 * hours + 60 * minutes + seconds
    if units := UNITS.fullmatch(text):
        return float(units[1]) * (60 if (units[2] or "s").startswith("m") else 1)
    return None


def duration_class(value: object) -> str:
    """A class such as "1 to 5 min"; another word, such as "short", is returned unchanged; empty without a duration."""
    seconds = seconds_of(value)
    if seconds is None:
        return value.strip() if isinstance(value, str) else ""
    return next((name for most, name in CLASSES if seconds <= most), LONGEST)
