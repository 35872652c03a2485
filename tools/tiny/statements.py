"""Statements: short facts about a SyncClips clip, one or two names followed by the answer.

They teach the decoder to attend from a name to its object or sound, and from two names to their times, in one or two
steps of attention. Questions that name something are learned faster after them.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np

from echoingpixels.synth.assets import OBJECTS, SOUNDS
from echoingpixels.synth.questions import APART_S, COUNTS, Question, audible_with, once, visible_with
from echoingpixels.synth.timeline import Event, Timeline
from echoingpixels.train.examples import STATEMENT

ABSENT = "no"
PAIRS = 6  # of a clip, at most


def statements(timeline: Timeline, rng: np.random.Generator) -> tuple[Question, ...]:
    """The corner of each object, the count of each sound, the order of pairs, and objects with their sounds.

    `<corner>` "cat" → "top left"; `<count>` "bell" → "two"; `<order>` "cat bell" → "yes" where the cat appears first;
    `<together>` "visible bell" → "cat", "plays cat" → "bell". Absent names have the answer "no" or "zero".
    """
    corners = {event.what: event.corner or ABSENT for event in timeline.of("object")}
    counts = Counter(event.what for event in timeline.of("sound"))
    kinds = {
        "corner": [(what, corners.get(what, ABSENT)) for what in _asked(list(corners), OBJECTS, rng)],
        "count": [(what, COUNTS[counts[what]]) for what in _asked(list(counts), SOUNDS, rng)],
        "order": _before(timeline, rng),
        "together": _together(timeline),
    }
    return tuple(
        Question(f"{STATEMENT}{kind}>", what, answer, ()) for kind, facts in kinds.items() for what, answer in facts
    )


def _asked(present: list[str], names: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    absent = [name for name in names if name not in present]
    return present + [absent[int(i)] for i in rng.permutation(len(absent))[: len(present) + 1]]


def _single(timeline: Timeline) -> list[Event]:
    """Events whose name occurs once."""
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
    pairs = [(f"visible {event.what}", visible_with(event, objects)) for event in once(sounds) + once(words)]
    pairs += [(f"plays {thing.what}", audible_with(thing, sounds)) for thing in objects if sounds]
    pairs += [(f"spoken {thing.what}", audible_with(thing, words)) for thing in objects if words]
    return [(asked, found.what) for asked, found in pairs if found]
