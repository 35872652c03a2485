"""The progress and the summary of a batch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import console

if TYPE_CHECKING:
    from echoingpixels.batch.tally import Tally


@contextmanager
def bar(rows: int) -> Iterator[Callable[[Tally], None]]:
    """Shows progress: a bar on a terminal, else a line every few seconds."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        layout = TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
        with Progress(*layout, console=console.stderr()) as shown:
            task = shown.add_task("loading the model …", total=rows)
            yield lambda tally: shown.update(task, completed=tally.done, description=state(tally))
        return
    last = time.monotonic()

    def line(tally: Tally) -> None:
        nonlocal last
        if time.monotonic() - last >= console.EVERY_S:
            last = time.monotonic()
            console.say(f"answers {tally.done} of {tally.rows}, {state(tally)}")

    yield line


def state(tally: Tally) -> str:
    """Rate, remaining time, failures, and the share of removed tokens."""
    new = tally.answered + tally.failed
    left = (tally.rows - tally.done) * tally.wall / new if new else None
    parts = [f"{tally.per_minute:.0f} clips/min"]
    if left is not None and tally.done < tally.rows:
        parts.append(f"{_clock(left)} left")
    if tally.failed:
        parts.append(f"{tally.failed} failed")
    if tally.tokens:
        parts.append(f"{tally.saved / tally.tokens:.0%} of tokens removed")
    return ", ".join(parts)


def summary(tally: Tally) -> list[tuple[str, str]]:
    """The totals of a batch, as labels and values."""
    totals = tally.as_dict()
    answers = f"{tally.answered} of {tally.rows}" + (f", {tally.skipped} done before" if tally.skipped else "")
    rows = [("answers", answers)]
    rows += [("failed", ", ".join(f"{n} {kind}" for kind, n in tally.failures.items()))] if tally.failed else []
    if tally.answered:
        removed = f"{tally.saved:,} of {tally.tokens:,} tokens removed"
        rows.append(("mean keep", f"{totals['kept_ratio']:.3g}, {removed}"))
    if tally.cached:
        rows.append(("from the cache", f"{tally.cached} answers"))
    if tally.clips:
        rate = "" if tally.tokens_per_s is None else f"; {tally.tokens_per_s:.1f} tokens/s in decoding"
        rows.append(("speed", f"{tally.per_minute:.1f} clips/min over {_clock(tally.wall)}{rate}"))
        shares = (f"{stage} {share:.0%}" for stage, share in totals["share"].items() if share >= 0.005)
        rows.append(("stages", ", ".join(shares)))
        use = totals["use"]
        slower = max(use, key=lambda name: use[name])
        rows.append(("slower stage", f"{slower}, busy {min(use[slower], 1):.0%} of the time"))
    return rows


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
