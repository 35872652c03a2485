"""The shortest things that can be said of a clip: a name, and at once where it is seen or how often it is heard.

With them a name learns to look for what it names, one step of attention away from the answer; questions that name
something then follow.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..synth.assets import OBJECTS, SOUNDS
from ..synth.questions import COUNTS, Question
from ..synth.timeline import Timeline

KIND = "statement"
ABSENT = "no"


def statements(timeline: Timeline, rng: np.random.Generator) -> tuple[Question, ...]:
    """One for every object and sound there is, and one more for some that are not; `question` is the bare name."""
    corners = {event.what: event.corner or ABSENT for event in timeline.of("object")}
    counts = Counter(event.what for event in timeline.of("sound"))
    said = [(what, corners.get(what, ABSENT)) for what in _asked(list(corners), OBJECTS, rng)]
    said += [(what, COUNTS[counts[what]]) for what in _asked(list(counts), SOUNDS, rng)]
    return tuple(Question(KIND, what, answer, ()) for what, answer in said)


def _asked(present: list[str], names: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    absent = [name for name in names if name not in present]
    return present + [absent[int(i)] for i in rng.permutation(len(absent))[: len(present) + 1]]
