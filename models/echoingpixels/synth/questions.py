"""Every question a timeline answers without ambiguity, in SyncClips' exact wording. Knows nothing about pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from echoingpixels.synth.assets import OBJECTS, SOUNDS, WORDS
from echoingpixels.synth.timeline import CORNERS, Event, Timeline

COUNTS = ("zero", "one", "two", "three", "four")
YES_NO = ("yes", "no")
WORDINGS = {
    "first_object": "Which object appears first?",
    "last_object": "Which object appears last?",
    "first_sound": "Which sound is heard first?",
    "last_sound": "Which sound is heard last?",
    "object_at_sound": "Which object is visible when the {} plays?",
    "sound_with_object": "Which sound plays while the {} is visible?",
    "count_sound": "How many times does the {} play?",
    "order": "Does the {} appear before the {} plays?",
    "exists_object": "Does the {} appear?",
    "exists_sound": "Is the {} heard?",
    "where": "In which corner is the {}?",
    "word": "Which number is spoken?",
    "word_with_object": "Which number is spoken while the {} is visible?",
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "first_object": OBJECTS,
    "last_object": OBJECTS,
    "first_sound": SOUNDS,
    "last_sound": SOUNDS,
    "object_at_sound": OBJECTS,
    "sound_with_object": SOUNDS,
    "count_sound": COUNTS,
    "order": YES_NO,
    "exists_object": YES_NO,
    "exists_sound": YES_NO,
    "where": CORNERS,
    "word": WORDS,
    "word_with_object": WORDS,
}
KINDS = tuple(WORDINGS)
COVERED = 0.8  # share of a sound's interval that the answer shares with the object
CLEAR = 0.2  # share that any other candidate must stay under: half-seen rivals would make the answer arguable
APART_S = 0.75
T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question, its answer, and `options`, the kind's whole answer set."""

    kind: str
    question: str
    answer: str
    options: tuple[str, ...]


def questions(timeline: Timeline, rng: np.random.Generator) -> list[Question]:
    """All admissible questions; `rng` draws the absent names, and the pairs left out so that yes equals no."""
    return [*_ends(timeline), *_together(timeline), *_counts(timeline, rng), *_yes_no(timeline, rng), *_plain(timeline)]


def pick(candidates: Sequence[Question], rng: np.random.Generator, n: int) -> list[Question]:
    """At most n different questions: kinds evenly among those present, then answers evenly within the kind."""
    left = list(candidates)
    picked: list[Question] = []
    while left and len(picked) < n:
        # A kind comes again only when every kind has come as often.
        used = Counter(question.kind for question in picked)
        kinds = sorted({question.kind for question in left})
        fewest = min(used[kind] for kind in kinds)
        kind = _draw(rng, [kind for kind in kinds if used[kind] == fewest])
        answer = _draw(rng, sorted({question.answer for question in left if question.kind == kind}))
        chosen = _draw(rng, [question for question in left if (question.kind, question.answer) == (kind, answer)])
        picked.append(chosen)
        left.remove(chosen)
    return picked


def _draw(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _ask(kind: str, answer: str, *names: str) -> Question:
    return Question(kind, WORDINGS[kind].format(*names), answer, OPTIONS[kind])


def _ends(timeline: Timeline) -> Iterator[Question]:
    """First and last. A word at that end of the clip leaves "which sound" arguable, so nothing is asked there."""
    objects = timeline.of("object")
    if len(objects) > 1:
        yield _ask("first_object", objects[0].what)
        yield _ask("last_object", objects[-1].what)
    heard = [event for event in timeline.events if event.kind != "object"]
    if len({event.what for event in heard if event.kind == "sound"}) > 1:
        if heard[0].kind == "sound":
            yield _ask("first_sound", heard[0].what)
        if heard[-1].kind == "sound":
            yield _ask("last_sound", heard[-1].what)


def _together(timeline: Timeline) -> Iterator[Question]:
    """What is seen and heard at the same time, where exactly one candidate is."""
    objects, sounds, words = timeline.of("object"), timeline.of("sound"), timeline.of("word")
    for sound in once(sounds):
        thing = visible_with(sound, objects)
        if thing is not None:
            yield _ask("object_at_sound", thing.what, sound.what)
    for thing in objects:
        heard = heard_with(thing, sounds)
        if heard is not None:
            yield _ask("sound_with_object", heard.what, thing.what)
        spoken = heard_with(thing, words)
        if spoken is not None:
            yield _ask("word_with_object", spoken.what, thing.what)


def _counts(timeline: Timeline, rng: np.random.Generator) -> Iterator[Question]:
    """How often; in half the clips that have sounds, also of a sound that is never heard."""
    counts = Counter(event.what for event in timeline.of("sound"))
    for what, count in counts.items():
        yield _ask("count_sound", COUNTS[count], what)
    if counts and rng.random() < 0.5:
        yield _ask("count_sound", COUNTS[0], _draw(rng, [what for what in SOUNDS if what not in counts]))


def _yes_no(timeline: Timeline, rng: np.random.Generator) -> Iterator[Question]:
    """As many yes as no of every kind in every clip, so that neither the kind nor the clip betrays the answer."""
    objects, sounds = timeline.of("object"), timeline.of("sound")
    pairs: dict[str, list[tuple[str, str]]] = {"yes": [], "no": []}
    for sound in once(sounds):
        for thing in objects:
            if abs(thing.start - sound.start) >= APART_S:
                pairs["yes" if thing.start < sound.start else "no"].append((thing.what, sound.what))
    n = min(len(pairs["yes"]), len(pairs["no"]))
    for answer in YES_NO:
        for i in sorted(rng.permutation(len(pairs[answer]))[:n]):
            yield _ask("order", answer, *pairs[answer][int(i)])
    for kind, present, names in (("exists_object", objects, OBJECTS), ("exists_sound", sounds, SOUNDS)):
        there = sorted({event.what for event in present})
        absent = [what for what in names if what not in there]
        for what in there:
            yield _ask(kind, "yes", what)
        for i in rng.permutation(len(absent))[: len(there)]:
            yield _ask(kind, "no", absent[int(i)])


def _plain(timeline: Timeline) -> Iterator[Question]:
    for thing in timeline.of("object"):
        assert thing.corner is not None, thing
        yield _ask("where", thing.corner, thing.what)
    words = timeline.of("word")
    if len(words) == 1:
        yield _ask("word", words[0].what)


def once(sounds: Sequence[Event]) -> list[Event]:
    """Those that come once only."""
    counts = Counter(sound.what for sound in sounds)
    return [sound for sound in sounds if counts[sound.what] == 1]


def visible_with(heard: Event, objects: Sequence[Event]) -> Event | None:
    """The one object that is there while something is heard, where that is beyond argument."""
    return _sole([(thing, _share(heard, thing)) for thing in objects])


def heard_with(thing: Event, heard: Sequence[Event]) -> Event | None:
    """The one sound or word that is heard while an object is there, where that is beyond argument."""
    return _sole([(event, _share(event, thing)) for event in heard])


def _share(heard: Event, thing: Event) -> float:
    """The share of what is heard during which the object is visible."""
    return max(0.0, min(heard.end, thing.end) - max(heard.start, thing.start)) / heard.length


def _sole(shares: Sequence[tuple[Event, float]]) -> Event | None:
    """The only candidate that covers, when no other comes near it."""
    together = [event for event, share in shares if share >= CLEAR]
    covering = [event for event, share in shares if share >= COVERED]
    return covering[0] if len(together) == len(covering) == 1 else None
