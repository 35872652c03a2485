"""All questions with an unambiguous answer in a timeline, in the exact wording of SyncClips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .assets import OBJECTS, SOUNDS, WORDS
from .timeline import CORNERS, Event, Timeline

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
COVERED = 0.8  # least share of a sound's interval that overlaps the object of the answer
CLEAR = 0.2  # upper limit of that share for any other candidate: larger ones would be ambiguous
APART_S = 0.75
T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question, its answer, and `options`, all answers of the kind."""

    kind: str
    question: str
    answer: str
    options: tuple[str, ...]


def questions(timeline: Timeline, rng: np.random.Generator) -> list[Question]:
    """All admissible questions; `rng` draws the absent names, and the pairs to drop so that yes and no are equal."""
    return [*_ends(timeline), *_together(timeline), *_counts(timeline, rng), *_yes_no(timeline, rng), *_plain(timeline)]


def pick(candidates: Sequence[Question], rng: np.random.Generator, n: int) -> list[Question]:
    """At most n different questions: kinds evenly among those present, then answers evenly within the kind."""
    left = list(candidates)
    picked: list[Question] = []
    while left and len(picked) < n:
        # A kind is repeated only after every other kind has been picked as often.
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
    """First and last. "Which sound" is ambiguous where the first or last event is a word: no question there."""
    objects = timeline.of("object")
    if len(objects) > 1:
        yield _ask("first_object", objects[0].what)
        yield _ask("last_object", objects[-1].what)
    audio = [event for event in timeline.events if event.kind != "object"]
    if len({event.what for event in audio if event.kind == "sound"}) > 1:
        if audio[0].kind == "sound":
            yield _ask("first_sound", audio[0].what)
        if audio[-1].kind == "sound":
            yield _ask("last_sound", audio[-1].what)


def _together(timeline: Timeline) -> Iterator[Question]:
    """Objects and sounds at the same time, where there is exactly one candidate."""
    objects, sounds, words = timeline.of("object"), timeline.of("sound"), timeline.of("word")
    for single in once(sounds):
        shown = visible_with(single, objects)
        if shown is not None:
            yield _ask("object_at_sound", shown.what, single.what)
    for thing in objects:
        sound = audible_with(thing, sounds)
        if sound is not None:
            yield _ask("sound_with_object", sound.what, thing.what)
        spoken = audible_with(thing, words)
        if spoken is not None:
            yield _ask("word_with_object", spoken.what, thing.what)


def _counts(timeline: Timeline, rng: np.random.Generator) -> Iterator[Question]:
    """Counts; in half of the clips with sounds, also of an absent sound."""
    counts = Counter(event.what for event in timeline.of("sound"))
    for what, count in counts.items():
        yield _ask("count_sound", COUNTS[count], what)
    if counts and rng.random() < 0.5:
        yield _ask("count_sound", COUNTS[0], _draw(rng, [what for what in SOUNDS if what not in counts]))


def _yes_no(timeline: Timeline, rng: np.random.Generator) -> Iterator[Question]:
    """Yes and no equally often in every kind and clip, so that neither reveals the answer."""
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
        found = sorted({event.what for event in present})
        absent = [what for what in names if what not in found]
        for what in found:
            yield _ask(kind, "yes", what)
        for i in rng.permutation(len(absent))[: len(found)]:
            yield _ask(kind, "no", absent[int(i)])


def _plain(timeline: Timeline) -> Iterator[Question]:
    for thing in timeline.of("object"):
        assert thing.corner is not None, thing
        yield _ask("where", thing.corner, thing.what)
    words = timeline.of("word")
    if len(words) == 1:
        yield _ask("word", words[0].what)


def once(sounds: Sequence[Event]) -> list[Event]:
    """The events whose name occurs once."""
    counts = Counter(sound.what for sound in sounds)
    return [sound for sound in sounds if counts[sound.what] == 1]


def visible_with(sound: Event, objects: Sequence[Event]) -> Event | None:
    """The only object visible during a sound or word; None if that is ambiguous."""
    return _sole([(thing, _share(sound, thing)) for thing in objects])


def audible_with(thing: Event, sounds: Sequence[Event]) -> Event | None:
    """The only sound or word while an object is visible; None if that is ambiguous."""
    return _sole([(event, _share(event, thing)) for event in sounds])


def _share(sound: Event, thing: Event) -> float:
    """The share of a sound during which the object is visible."""
    return max(0.0, min(sound.end, thing.end) - max(sound.start, thing.start)) / sound.length


def _sole(shares: Sequence[tuple[Event, float]]) -> Event | None:
    """The only candidate that reaches COVERED, if every other is below CLEAR."""
    together = [event for event, share in shares if share >= CLEAR]
    covering = [event for event, share in shares if share >= COVERED]
    return covering[0] if len(together) == len(covering) == 1 else None
