"""A chart of the kept tokens: a bar for each modality, and their distribution over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echoingpixels.generation.answer import Answer

WIDTH = 40  # characters
LEVELS = " ▁▂▃▄▅▆▇█"


def picture(answer: Answer, duration: float) -> list[tuple[str, str]]:
    """Labelled lines: the budget by kind, and for clips with a length (s) the kept tokens over time."""
    tokens = answer.report.tokens
    rows = []
    for name, count in (("video", tokens.video), ("audio", tokens.audio), ("image", tokens.image)):
        if count.before:
            rows.append((f"{name} kept", f"{bar(count.after / count.before)} {count.after} of {count.before}"))
    for name, times in vars(answer.kept_times).items():
        if times and duration > 0:
            rows.append((f"{name} over time", f"{sparkline(times, duration)} 0 to {duration:.1f} s"))
    return rows


def bar(share: float) -> str:
    """A bar filled to a share; a share above 0 fills at least one character."""
    filled = max(round(WIDTH * share), 1 if share else 0)
    return "█" * filled + "░" * (WIDTH - filled)


def sparkline(times: Sequence[float], duration: float) -> str:
    """A histogram of the times (s) in WIDTH equal parts of the duration (s)."""
    counts = [0] * WIDTH
    for time in times:
        counts[min(WIDTH - 1, int(time / duration * WIDTH))] += 1
    most = max([*counts, 1])
    return "".join(LEVELS[-(-n * (len(LEVELS) - 1) // most)] for n in counts)
