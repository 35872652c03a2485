"""The shortest things that can be said of a clip: a name or two, and at once the answer.

With them a name learns to look for what it names, and two names to compare when they come or to find each other in
time, one or two steps of attention away from the answer; the questions that name something then follow.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np

from ..synth.assets import OBJECTS, SOUNDS, WORDS
from ..synth.questions import APART_S, COUNTS, Question, heard_with, once, visible_with
from ..synth.timeline import Event, Timeline

KIND = "<statement>"  # no kind of a question file
ABSENT = "no"
PAIRS = 6  # at most, of a clip


def statements(timeline: Timeline, rng: np.random.Generator) -> tuple[Question, ...]:
    """Where each object is, how often each sound comes, what comes before what, and what goes with what.

    `question` is bare: "cat" → "top left"; "bell" → "two"; "cat bell" → "yes" where the cat comes first; "visible bell"
    → "cat"; "plays cat" → "bell"; "when cat" → "three", the second it comes in. Absent names are answered so.
    """
    corners = {event.what: event.corner or ABSENT for event in timeline.of("object")}
    counts = Counter(event.what for event in timeline.of("sound"))
    said = [(what, corners.get(what, ABSENT)) for what in _asked(list(corners), OBJECTS, rng)]
    said += [(what, COUNTS[counts[what]]) for what in _asked(list(counts), SOUNDS, rng)]
    said += _before(timeline, rng) + _together(timeline)
    said += [(f"when {event.what}", WORDS[min(9, int(event.start))]) for event in _single(timeline)]
    return tuple(Question(KIND, what, answer, ()) for what, answer in said)


def _asked(present: list[str], names: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    absent = [name for name in names if name not in present]
    return present + [absent[int(i)] for i in rng.permutation(len(absent))[: len(present) + 1]]


def _single(timeline: Timeline) -> list[Event]:
    """What comes once only."""
    return [*timeline.of("object"), *once(timeline.of("sound")), *once(timeline.of("word"))]


def _before(timeline: Timeline, rng: np.random.Generator) -> list[tuple[str, str]]:
    pairs = [
        (f"{a.what} {b.what}", "yes" if a.start < b.start else "no")
        for a, b in permutations(_single(timeline), 2)
        if abs(a.start - b.start) >= APART_S
    ]
    return [pairs[int(i)] for i in rng.permutation(len(pairs))[:PAIRS]]


def _together(timeline: Timeline) -> list[tuple[str, str]]:
    objects, sounds, words = timeline.of("object"), timeline.of("sound"), timeline.of("word")
    said = [(f"visible {event.what}", visible_with(event, objects)) for event in once(sounds) + once(words)]
    said += [(f"plays {thing.what}", heard_with(thing, sounds)) for thing in objects if sounds]
    said += [(f"spoken {thing.what}", heard_with(thing, words)) for thing in objects if words]
    return [(asked, found.what if found else ABSENT) for asked, found in said]
