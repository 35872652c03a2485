"""One row of the output."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import EpError
from ..inputs.positions import KINDS

STAGES = ("fetch", "decode", "prepare", "encode", "select", "prefill", "generate", "evidence")

MOMENT = ("start", "end", "share")  # of the first moment, in a table


@dataclass(frozen=True)
class Failure:
    """The error of a row. `kind` is the name of its class."""

    kind: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: EpError) -> Failure:
        return cls(type(error).__name__, error.message, error.hint)


@dataclass(frozen=True)
class Result:
    """An answer and its cost, or the error.

    `time_s`: seconds by stage. Those of a clip count in its first row; those of a padded batch are shared equally.
    `evidence`: start, end (s) and share of the moments that the answer rests on; `no_evidence`: why there are none.
    `said`: generated tokens. `tokens_per_s`: decoding throughput after the first token, of the whole padded batch.
    `retried`: a sentence about the retry after memory ran out, None without one.
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
    keep: float
    kept_ratio: float | None
    tokens: dict[str, dict[str, int]] | None  # by kind, before and after selection
    time_s: dict[str, float]
    said: int | None = None
    tokens_per_s: float | None = None
    evidence: list[dict[str, float]] | None = None
    no_evidence: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cached: bool = False  # whether the features come from the cache
    retried: str | None = None
    error: Failure | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the journal as a table row: one plain value a column, the same columns for every row."""
    tokens, seconds, error = row.get("tokens") or {}, row.get("time_s") or {}, row.get("error") or {}
    (moment,) = (row.get("evidence") or [{}])[:1]
    plain = {name: row.get(name) for name in COLUMNS[: COLUMNS.index("tokens_" + KINDS[0] + "_before")]}
    for kind in KINDS:
        for when in ("before", "after"):
            plain[f"tokens_{kind}_{when}"] = tokens.get(kind, {}).get(when)
    plain.update({f"time_s_{stage}": seconds.get(stage) for stage in STAGES})
    plain.update({f"evidence_{name}": moment.get(name) for name in MOMENT})
    plain.update({f"error_{name}": error.get(name) for name in ("kind", "message", "hint")})
    if isinstance(row.get("keep"), str):  # `auto:0.98` of an earlier version; kept_ratio has the number
        plain["keep"] = None
    for name in ("warnings", "notes"):
        plain[name] = "\n".join(row.get(name) or ())
    return plain


_NESTED = ("tokens", "time_s", "evidence", "error")
COLUMNS = (
    *(field.name for field in fields(Result) if field.name not in _NESTED),
    *(f"tokens_{kind}_{when}" for kind in KINDS for when in ("before", "after")),
    *(f"time_s_{stage}" for stage in STAGES),
    *(f"evidence_{name}" for name in MOMENT),
    *(f"error_{name}" for name in ("kind", "message", "hint")),
)
