"""One row of the output. Knows nothing about where it is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import EpError
from ..inputs.positions import KINDS

STAGES = ("fetch", "decode", "prepare", "encode", "select", "prefill", "generate")


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. `kind` is the error's class."""

    kind: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: EpError) -> Failure:
        return cls(type(error).__name__, error.message, error.hint)


@dataclass(frozen=True)
class Result:
    """An answer and what it cost, or why there is none.

    `time_s`: seconds by stage. A clip's own count in its first row; those of a padded batch are shared out evenly.
    `said`: tokens of the answer; after the first one they came at `tokens_per_s`, those of its whole padded batch.
    `retried` says what was done after memory ran out.
    """

    key: str
    id: str
    media: str
    start: float | None
    end: float | None
    question: str
    answer: str | None
    finish_reason: str | None
    model: str
    reducer: str
    keep: float | str
    kept_ratio: float | None
    tokens: dict[str, dict[str, int]] | None  # of each kind, before and after
    time_s: dict[str, float]
    said: int | None = None
    tokens_per_s: float | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cached: bool = False  # whether what the towers made of the clip came from the cache
    retried: str | None = None
    error: Failure | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the journal as a table has it: one plain value a column, the same columns for every row."""
    tokens, seconds, error = row.get("tokens") or {}, row.get("time_s") or {}, row.get("error") or {}
    plain = {name: row.get(name) for name in COLUMNS[: COLUMNS.index("tokens_" + KINDS[0] + "_before")]}
    for kind in KINDS:
        for when in ("before", "after"):
            plain[f"tokens_{kind}_{when}"] = tokens.get(kind, {}).get(when)
    plain.update({f"time_s_{stage}": seconds.get(stage) for stage in STAGES})
    plain.update({f"error_{name}": error.get(name) for name in ("kind", "message", "hint")})
    plain["keep"] = None if row.get("keep") is None else str(row["keep"])
    for name in ("warnings", "notes"):
        plain[name] = "\n".join(row.get(name) or ())
    return plain


_NESTED = ("tokens", "time_s", "error")
COLUMNS = (
    *(field.name for field in fields(Result) if field.name not in _NESTED),
    *(f"tokens_{kind}_{when}" for kind in KINDS for when in ("before", "after")),
    *(f"time_s_{stage}" for stage in STAGES),
    *(f"error_{name}" for name in ("kind", "message", "hint")),
)
