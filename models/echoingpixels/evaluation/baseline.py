"""Results of an earlier evaluation, read from the file that it wrote, to compare a run with."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.questions import Row, read_object, read_text
from ..errors import DataError
from ..reducers.setting import Setting
from .evaluate import Run
from .paired import Paired, paired

Key = tuple[str | None, str | None, str | None]  # id, name of the media file, question; None if unknown
HINT = "Give a file that `ep evaluate --out` or `ep evaluate --json` wrote."


@dataclass(frozen=True)
class Baseline:
    """Whether each question was answered right in each run of an earlier evaluation; None if its clip failed."""

    path: Path
    runs: dict[Setting, dict[Key, bool | None]]

    def against(self, setting: Setting, chosen: Setting | None = None) -> Setting | None:
        """The run to compare with: `chosen`, else the one with the same setting, else the only one, else None.

        DataError if `chosen` is not in the file.
        """
        if chosen is not None and chosen not in self.runs:
            raise DataError(f"{self.path} has no run {named(chosen)}.", f"It has: {self._named()}.")
        only = next(iter(self.runs)) if len(self.runs) == 1 else None
        return chosen or (setting if setting in self.runs else only)

    def check(self, rows: Sequence[Row], settings: Sequence[Setting], chosen: Setting | None = None) -> None:
        """DataError if nothing can be compared; called before the evaluation."""
        found = [run for run in (self.against(setting, chosen) for setting in settings) if run]
        if not found:
            hint = f"It has: {self._named()}. Choose one with --baseline-run."
            raise DataError(f"{self.path} has none of these runs: {', '.join(map(named, settings))}.", hint)
        if not any(_match(row, self.runs[run]) for row in rows for run in found):
            raise DataError(f"{self.path} has no question in common with these.", "Evaluate the same questions.")

    def compare(self, run: Run, chosen: Setting | None = None) -> Paired | None:
        """The comparison of a run; None without a run to compare it with."""
        against = self.against(run.setting, chosen)
        if against is None:
            return None
        marks = self.runs[against]
        found = [(outcome, _match(outcome.row, marks)) for outcome in run.outcomes]
        both = [(outcome, marks[key]) for outcome, key in found if key]
        return paired(both, against, str(self.path), len(found) - len(both), len(marks) - len(both))

    def _named(self) -> str:
        return ", ".join(map(named, self.runs))


def named(setting: Setting) -> str:
    """A setting as --baseline-run reads it: cs2:0.2."""
    return f"{setting.reducer}:{setting.keep:g}"


def _match(row: Row, marks: Container[Key]) -> Key | None:
    """The key of the same question, by id if it has one; None without this question."""
    keys = ((row.id, None, row.question), (row.id, None, None), (None, row.media.name, row.question))
    return next((key for key in keys if key in marks), None)


def read_baseline(path: Path) -> Baseline:
    """Read the answers (JSON lines) or the report (JSON) of an evaluation. DataError for anything else."""
    text = read_text(path, HINT)
    runs: dict[Setting, dict[Key, bool | None]] = {}
    for where, answer in _answers(text, path):
        try:
            setting, key, right = Setting(str(answer["reducer"]), float(answer["keep"])), _key(answer), answer["right"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where} is not an answer of an evaluation: {_reason(error)}.", HINT) from error
        known = runs.setdefault(setting, {})
        if not (right is None or isinstance(right, bool)):
            raise DataError(f"{where} has right {right!r}.", HINT)
        if key in known:
            what = key[0] or key[2]
            raise DataError(f"{where}: {what!r} occurs twice for {named(setting)}.", "Give each question its own id.")
        known[key] = right
    if not runs:
        raise DataError(f"{path} contains no answer.", HINT)
    return Baseline(path, runs)


def _answers(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each answer with its place, for error messages."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
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


def _key(answer: dict[str, Any]) -> Key:
    if answer.get("id") is not None:
        return str(answer["id"]), None, answer.get("question")
    return None, Path(answer["media"]).name, answer["question"]


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
