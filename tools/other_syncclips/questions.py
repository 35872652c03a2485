"""The questions of a clip whose answers are unambiguous."""

from __future__ import annotations

from .clips import CORNERS, OBJECTS, Clip, Event
from .takes import SOUNDS, WORDS, Rng

COUNTS = WORDS[:5]


def only(candidates: list[Event], inside: bool, span: Event) -> str | None:
    """The only candidate that shares at least 80 % of the interval, if every other shares less than 20 %."""
    shares = []
    for event in candidates:
        common = min(event.end, span.end) - max(event.start, span.start)
        whole = event if inside else span
        shares.append(max(0.0, common) / (whole.end - whole.start))
    good = [e for e, share in zip(candidates, shares, strict=True) if share >= 0.8]
    return good[0].what if len(good) == 1 and sum(share >= 0.2 for share in shares) == 1 else None


def questions(clip: Clip, rng: Rng) -> dict[str, list[tuple[str, str]]]:
    """The questions of each kind that the clip allows, with their answers, in random order."""
    objects, sounds = clip.objects, [e for e in clip.audio if e.what in SOUNDS]
    words, names = [e for e in clip.audio if e.what in WORDS], [e.what for e in clip.audio if e.what in SOUNDS]
    once, shown = [e for e in sounds if names.count(e.what) == 1], [e.what for e in objects]
    found: dict[str, list[tuple[str, str]]] = {}

    def balanced(yes: list[str], no: list[str]) -> list[tuple[str, str]]:
        chosen = [(text, answer) for texts, answer in ((yes, "yes"), (no, "no")) for text in rng.permutation(texts)[:1]]
        return [chosen[int(rng.integers(2))]] if len(chosen) == 2 else []

    if len(objects) > 1:
        found["first_object"] = [("Which object appears first?", min(objects, key=lambda e: e.start).what)]
        found["last_object"] = [("Which object appears last?", max(objects, key=lambda e: e.start).what)]
    if len(set(names)) > 1:
        found["first_sound"] = [("Which sound is heard first?", sounds[0].what)]
        found["last_sound"] = [("Which sound is heard last?", sounds[-1].what)]
    at = [(e.what, only(objects, False, e)) for e in once]
    found["object_at_sound"] = [(f"Which object is visible when the {what} plays?", a) for what, a in at if a]
    found["sound_with_object"], found["word_with_object"] = [], []
    for event in objects:
        if answer := only(sounds, True, event):
            found["sound_with_object"].append((f"Which sound plays while the {event.what} is visible?", answer))
        if answer := only(words, True, event):
            found["word_with_object"].append((f"Which number is spoken while the {event.what} is visible?", answer))
    if sounds:
        absent = [name for name in SOUNDS if name not in names]
        amounts = sorted({0, *(names.count(name) for name in names)})
        amount = int(rng.choice(amounts))
        asked = str(rng.choice([name for name in SOUNDS if names.count(name) == amount]))
        found["count_sound"] = [(f"How many times does the {asked} play?", COUNTS[amount])]
        exists = [[f"Is the {name} heard?" for name in part] for part in (sorted(set(names)), absent)]
        found["exists_sound"] = balanced(exists[0], exists[1])
    pairs = [(o, s) for o in objects for s in once if abs(o.start - s.start) >= 0.75]
    order = [[f"Does the {o.what} appear before the {s.what} plays?" for o, s in pairs if (o.start < s.start) is b]
             for b in (True, False)]  # fmt: skip
    found["order"] = balanced(order[0], order[1])
    found["exists_object"] = balanced(
        [f"Does the {name} appear?" for name in shown],
        [f"Does the {name} appear?" for name in OBJECTS if name not in shown],
    )
    found["where"] = [(f"In which corner is the {e.what}?", e.corner) for e in objects]
    if len(words) == 1:
        found["word"] = [("Which number is spoken?", words[0].what)]
    return {kind: [rows[i] for i in rng.permutation(len(rows))] for kind, rows in found.items() if rows}


def options(kind: str) -> list[str]:
    if kind in ("first_object", "last_object", "object_at_sound"):
        return list(OBJECTS)
    if kind in ("first_sound", "last_sound", "sound_with_object"):
        return SOUNDS
    return {"count_sound": COUNTS, "where": CORNERS, "word": WORDS, "word_with_object": WORDS}.get(kind, ["yes", "no"])


def ask(clip: Clip, count: int, rng: Rng) -> list[tuple[str, str, str]]:
    """Kind, question and answer: every kind once before any is repeated."""
    result: list[tuple[str, str, str]] = []
    found = questions(clip, rng)
    while found and len(result) < count:
        for kind in rng.permutation(list(found))[: count - len(result)]:
            result.append((str(kind), *found[kind].pop()))
        found = {kind: rows for kind, rows in found.items() if rows}
    return result
