"""The marks of an earlier evaluation, read from the file it wrote. Knows nothing about models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.questions import Row, read_object
from ..errors import DataError
from ..options import Keep, keep_name, read_keep
from ..reducers.setting import Setting
from .evaluate import Run
from .paired import Paired, paired

Key = tuple[str | None, str | None, str | None]  # id, name of the media file, question; None where not known
HINT = "Give what `ep evaluate --out` or `ep evaluate --json` wrote."


@dataclass(frozen=True)
class Baseline:
    """Whether each question was answered right, in every run of an earlier evaluation; None where its clip failed."""

    path: Path
    runs: dict[Setting, dict[Key, bool | None]]

    def against(self, setting: Setting, chosen: Setting | None = None) -> Setting | None:
        """The run to compare with: the one `chosen`, else the same setting, else the only one; None if there is none.

        DataError where `chosen` is not there.
        """
        if chosen is not None and chosen not in self.runs:
            raise DataError(f"{self.path} has no run {named(chosen)}.", f"It has: {self._named()}.")
        only = next(iter(self.runs)) if len(self.runs) == 1 else None
        return chosen or (setting if setting in self.runs else only)

    def check(self, rows: Sequence[Row], settings: Sequence[Setting], chosen: Setting | None = None) -> None:
        """DataError where nothing could be compared; asked before the work."""
        found = [run for run in (self.against(setting, chosen) for setting in settings) if run]
        if not found:
            hint = f"It has: {self._named()}. Choose one with --baseline-run."
            raise DataError(f"{self.path} has none of these runs: {', '.join(map(named, settings))}.", hint)
        if not any(_mark(row, self.runs[run]) for row in rows for run in found):
            raise DataError(f"{self.path} has no question in common with these.", "Evaluate the same questions.")

    def beside(self, run: Run, chosen: Setting | None = None) -> Paired | None:
        """A run beside the one to compare it with; None where there is none."""
        against = self.against(run.setting, chosen)
        if against is None:
            return None
        marks = self.runs[against]
        found = [(outcome, _mark(outcome.row, marks)) for outcome in run.outcomes]
        both = [(outcome, mark[0]) for outcome, mark in found if mark]
        return paired(both, against, str(self.path), len(found) - len(both), len(marks) - len(both))

    def _named(self) -> str:
        return ", ".join(map(named, self.runs))


def named(setting: Setting) -> str:
    """As --baseline-run takes it: cs2:0.2."""
    return f"{setting.reducer}:{keep_name(setting.keep)}"


def _mark(row: Row, marks: dict[Key, bool | None]) -> tuple[bool | None] | None:
    """The mark of the same question, by id where there is one; None where it was not asked."""
    for key in ((row.id, None, row.question), (row.id, None, None), (None, row.media.name, row.question)):
        if key in marks:
            return (marks[key],)
    return None


def read_baseline(path: Path) -> Baseline:
    """Read an evaluation's answers (JSONL) or its report (JSON). DataError for anything else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"{path} cannot be read: {reason.lower()}.", HINT) from error
    runs: dict[Setting, dict[Key, bool | None]] = {}
    for where, said in _answers(text, path):
        try:
            setting, key, right = Setting(str(said["reducer"]), _keep(said["keep"])), _key(said), said["right"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where} is no answer of an evaluation: {_reason(error)}.", HINT) from error
        known = runs.setdefault(setting, {})
        if not (right is None or isinstance(right, bool)):
            raise DataError(f"{where} has right {right!r}.", HINT)
        if key in known:
            what = key[0] or key[2]
            raise DataError(
                f"{where}: {what!r} is there twice for {named(setting)}.", "Give every question its own id."
            )
        known[key] = right
    if not runs:
        raise DataError(f"{path} holds no answer.", HINT)
    return Baseline(path, runs)


def _answers(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each answer, with where it is."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        whole = json.loads(text) if lines else {}
    except json.JSONDecodeError:
        whole = {}
    if isinstance(whole, dict) and "runs" in whole:
        yield from _report(whole["runs"], path)
        return
    for number, line in lines:
        where = f"{path}, line {number}"
        yield where, read_object(line, where, HINT)


def _report(runs: Any, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for run in runs:
            for mark in run["marks"]:
                yield (
                    f"{path}, run {run['reducer']} {run['keep']}",
                    {"reducer": run["reducer"], "keep": run["keep"], **mark},
                )
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} has no marks to compare: {_reason(error)}.", HINT) from error


def _key(said: dict[str, Any]) -> Key:
    if said.get("id") is not None:
        return str(said["id"]), None, said.get("question")
    return None, Path(said["media"]).name, said["question"]


def _keep(said: Any) -> Keep:
    return read_keep(said) if isinstance(said, str) else float(said)


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
