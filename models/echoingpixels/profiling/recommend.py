"""The measured setting to use, with the reason in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..reducers.setting import Setting
from .measurements import FULL, Measured


@dataclass(frozen=True)
class Recommendation:
    """One setting and the reason for it."""

    setting: Setting
    reason: str


def recommend(runs: Sequence[Measured]) -> Recommendation:
    """The smallest keep that loses no answer and is faster in every round; all tokens if there is none.

    No answer is lost if all agree with those from all tokens or, for questions with known answers, if the accuracy is
    not lower. That must also hold at every larger keep of the reducer: a single success may be chance. Of several
    reducers at one keep, the fastest.
    """
    full = next(run for run in runs if run.setting == FULL)
    reduced = [run for run in runs if run.setting != FULL]
    if not reduced:
        return Recommendation(FULL, "Only the run with all tokens was measured.")
    scored = bool(_accuracy(full)) and all(_accuracy(run) is not None for run in runs)
    what = _what(full, scored)
    kept = [run for run in reduced if all(_holds(other, full, scored) for other in reduced if _above(other, run))]
    fast = [run for run in kept if run.measured.low > 1]
    if fast:
        best = min(fast, key=lambda run: (run.setting.keep, -run.measured.median))
        why = f"At this and every larger keep ratio measured, {best.setting.reducer} {what}. Faster in every round"
        return Recommendation(best.setting, f"{why}: {_times(best)}.")
    if kept:
        best = max(kept, key=lambda run: run.measured.median)
        why = f"No setting that {what} is faster in every round"
        return Recommendation(FULL, f"{why}; the closest is {name(best.setting)}: {_times(best)}.")
    best = max(reduced, key=lambda run: (_quality(run, scored), run.measured.median))
    if not _quality(best, scored):
        return Recommendation(FULL, f"No setting {what}, and none is close.")
    share = f"{100 * _quality(best, scored):.1f} % of {'questions right' if scored else 'answers agreeing'}"
    return Recommendation(
        FULL, f"No setting {what} at its own and every larger keep ratio; the closest is {name(best.setting)}: {share}."
    )


def name(setting: Setting) -> str:
    """A setting as text, such as `cs2 at keep 0.1`."""
    return f"{setting.reducer} at keep {setting.keep:g}"


def _above(other: Measured, run: Measured) -> bool:
    return other.setting.reducer == run.setting.reducer and other.setting.keep >= run.setting.keep


def _holds(run: Measured, full: Measured, scored: bool) -> bool:
    return _quality(run, scored) >= _quality(full, scored)


def _quality(run: Measured, scored: bool) -> float:
    return (_accuracy(run) or 0.0) if scored else run.agreement


def _accuracy(run: Measured) -> float | None:
    return None if run.score is None else run.score.accuracy


def _what(full: Measured, scored: bool) -> str:
    if scored and full.score:
        asked = full.score.questions - full.score.failed
        return f"answers as many questions correctly as all tokens ({100 * _quality(full, scored):.1f} % of {asked})"
    clips = len(full.replies)
    return f"gives the same answer as all tokens on {'the clip' if clips == 1 else f'all {clips} clips'}"


def _times(run: Measured) -> str:
    return f"{run.measured.median:.2f} × end to end, {run.llm.median:.2f} × in the LLM alone"
