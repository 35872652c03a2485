"""An evaluation as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import console

if TYPE_CHECKING:
    from echoingpixels.datasets.score import Score
    from echoingpixels.evaluation.answerfile import AnswerFile
    from echoingpixels.evaluation.evaluate import Outcome, Run
    from echoingpixels.evaluation.paired import Difference, Paired
    from echoingpixels.reducers.setting import Setting
    from echoingpixels.report import StageTimes

STAGES = ("decode", "prepare", "encode", "select", "prefill", "generate")
UNKNOWN = "–"  # no answers

Table = tuple[list[str], list[list[str]]]  # header and rows
Beside = Mapping["Setting", "Paired | None"]  # comparison of each run, None without a counterpart


def plain(run: Run, full: Beside, beside: Beside) -> dict[str, Any]:
    """One entry of `runs`. `marks`: right or not by question id, for a later --baseline."""
    by = {name: {key: asdict(one) for key, one in scores.items()} for name, scores in _groups(run)}
    both = [found for found in (full.get(run.setting), beside.get(run.setting)) if found]
    return {
        **run.setting.as_dict(),
        **asdict(run.score),
        **by,
        "tokens": run.tokens.as_dict(),
        "tokens_by_regime": {regime: tokens.as_dict() for regime, tokens in run.tokens_by_regime.items()},
        "time_s": _seconds(run.time_s),
        "paired": [one.as_dict() for one in both],
        "marks": [{"id": outcome.row.id, "right": outcome.right} for outcome in run.outcomes],
    }


def tables(runs: Sequence[Run], full: Beside, beside: Beside) -> Iterator[Table]:
    """The runs, their accuracy by kind and by regime, and the differences to the baseline."""
    yield _whole(runs, full)
    for i, title in enumerate(("kind", "regime")):
        groups = [_groups(run)[i][1] for run in runs]
        names = list(dict.fromkeys(name for group in groups for name in group))
        if names:
            yield [title, "questions", *(" ".join(_name(run.setting)) for run in runs)], _rows(names, groups)
    found = {setting: one for setting, one in beside.items() if one}
    if found:
        yield _baseline(found)
        for i, title in enumerate(("kind", "regime")):
            parts = {setting: (one.by_kind, one.by_regime)[i] for setting, one in found.items()}
            names = list(dict.fromkeys(name for part in parts.values() for name in part))
            if names:
                header = [f"{title}, to baseline", *(" ".join(_name(setting)) for setting in parts)]
                yield header, [[name, *(_points(part.get(name)) for part in parts.values())] for name in names]


def remarks(beside: Beside) -> list[tuple[str, str]]:
    """Runs and questions without a counterpart in the baseline, as labelled lines."""
    notes = []
    for setting, one in beside.items():
        if one is None:
            name = " ".join(_name(setting))
            notes.append(f"the baseline has no run to compare with {name}; choose one with --baseline-run")
        elif one.here or one.there:
            notes.append(
                f"not compared: {one.here} questions only in this evaluation, {one.there} only in the baseline"
            )
    return [("note", text) for text in dict.fromkeys(notes)]


def _whole(runs: Sequence[Run], full: Beside) -> Table:
    lettered = any(outcome.row.choices for run in runs for outcome in run.outcomes)
    unparsed = ["unparsed"] if lettered else []
    header = ["reducer", "keep", "right", "95 % interval", "questions", "failed", *unparsed, "tokens kept", "time"]
    rows = []
    for run in runs:
        score = run.score
        interval = "" if score.interval is None else "–".join(f"{100 * x:.1f}" for x in score.interval)
        counts = [score.questions, score.failed, *([score.unparsed] if lettered else [])]
        cost = [f"{100 * run.tokens.kept_ratio:.1f} %", f"{run.time_s.total:.1f} s"]
        rows.append([*_name(run.setting), _percent(score), interval, *map(str, counts), *cost])
        if full:
            other = full.get(run.setting)
            rows[-1].append(_points(other.whole) if other else "")
    return [*header, "points to full (95 %)"] if full else header, rows


def _rows(names: Sequence[str], groups: Sequence[dict[str, Score]]) -> list[list[str]]:
    rows = []
    for name in names:
        scores = [group[name] for group in groups]
        rows.append([name, str(scores[0].questions), *(_percent(score) for score in scores)])
    return rows


def _baseline(found: Mapping[Setting, Paired]) -> Table:
    header = ["reducer", "keep", "baseline", "points (95 %)", "gained", "lost", "questions", "clips", "failed"]
    rows = []
    for setting, one in found.items():
        whole = one.whole
        counts = (whole.gained, whole.lost, whole.questions, whole.clips, whole.failed)
        rows.append([*_name(setting), " ".join(_name(one.against)), _points(whole), *map(str, counts)])
    return header, rows


def _seconds(spent: StageTimes) -> dict[str, float]:
    """Seconds by stage without loading the model, and their sum."""
    known = spent.known()
    return {**{stage: known.get(stage, 0.0) for stage in STAGES}, "total": spent.total}


def _groups(run: Run) -> tuple[tuple[str, dict[str, Score]], ...]:
    return ("by_kind", run.by_kind), ("by_regime", run.by_regime)


def _name(setting: Setting) -> tuple[str, str]:
    return setting.reducer, f"{setting.keep:g}"


def _percent(score: Score) -> str:
    return UNKNOWN if score.accuracy is None else f"{100 * score.accuracy:.1f} %"


def _points(one: Difference | None) -> str:
    """Such as +1.5 (-0.3 to +3.2)."""
    if one is None or one.difference is None:
        return UNKNOWN
    interval = "" if one.interval is None else f" ({100 * one.interval[0]:+.1f} to {100 * one.interval[1]:+.1f})"
    return f"{100 * one.difference:+.1f}{interval}"


def reporter(file: AnswerFile | None = None) -> Callable[[Outcome], None]:
    """Writes each outcome to the file, if any, and prints each error and each note once."""
    printed: set[str] = set()

    def report(outcome: Outcome) -> None:
        for label, text in [("failed", outcome.error or ""), *(("note", note) for note in outcome.notes)]:
            if text and text not in printed:
                printed.add(text)
                console.say(f"{label}: {text}")
        if file is not None:
            file.write(outcome)

    return report
