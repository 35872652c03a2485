"""Whether evidence times find the event that a question is about: `python -m tools.evidence QUESTIONS.jsonl --help`.

For right answers to SyncClips' questions about one event: the share whose first moment overlaps the event, beside
chance, a moment of equal length at a random place in the same clip. Where an object and a sound or word belong
together, the event is the sound or word, during which both are present.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from echoingpixels.from_pretrained import load
from echoingpixels.generation.evidence import Moment

NAMED = re.compile(r"\bthe (\w+)\??(?: is| plays| appear| heard|$)")


@dataclass(frozen=True)
class Found:
    """A right answer's first moment beside its event. `length`: s; `chance`: of a random moment of that length."""

    kind: str
    hit: bool
    chance: float
    length: float


def event_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """The one event that decides the answer, None where there are several or none."""
    kind, answer, events = row["kind"], row["answer"], row["events"]
    if kind in ("order", "count_sound") or answer == "no":
        return None
    names = NAMED.findall(row["question"])
    called: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        called[event["what"]].append(event)
    if kind.startswith(("first", "last")):
        return called[answer][0 if kind.startswith("first") else -1]
    if kind.endswith("with_object"):  # the same sound may also play elsewhere
        (shown,) = called[names[0]]
        return max(called[answer], key=lambda one: min(one["end"], shown["end"]) - max(one["start"], shown["start"]))
    wanted = called[answer if kind == "word" else names[0]]
    return wanted[0] if len(wanted) == 1 else None


def beside(kind: str, moment: Moment | None, event: dict[str, Any], duration: float) -> Found:
    """A moment, or none, beside an event of a clip of `duration` s."""
    if moment is None:
        return Found(kind, False, 0.0, 0.0)
    length = moment.end - moment.start
    room = duration - length  # for the start of a random moment
    reach = min(room, event["end"]) - max(0.0, event["start"] - length)
    chance = 1.0 if room < 1e-6 else min(1.0, max(0.0, reach) / room)
    return Found(kind, moment.start < event["end"] and event["start"] < moment.end, chance, length)


def measured(data: Path, model: str, sieve: str | None, limit: int | None, **options: Any) -> Iterator[Found]:
    """The moments of all right answers to questions about one event; options are those of AskOptions."""
    on, clips = load(model, sieve=sieve), {}
    rows = list(map(json.loads, data.read_text().splitlines()))[:limit]
    for row in rows:
        event = event_of(row)
        if event is None:
            continue
        if row["media"] not in clips:
            clips = {row["media"]: on.encode(data.parent / row["media"])}  # rows of a clip follow one another
        clip = clips[row["media"]]
        answer = clip.ask(row["question"], **options)
        if answer.text.strip().lower().rstrip(".") == row["answer"]:
            yield beside(row["kind"], next(iter(answer.evidence.moments), None), event, clip.duration)


def table(found: list[Found]) -> Iterator[str]:
    """A line for each kind, and for all of them."""
    yield f"{'kind':18} {'answers':>7} {'overlap':>8} {'chance':>7} {'length':>7}"
    for kind in [*sorted({one.kind for one in found}), "all"]:
        some = [one for one in found if kind in (one.kind, "all")]
        hit, chance, length = (mean(getattr(one, name) for one in some) for name in ("hit", "chance", "length"))
        yield f"{kind:18} {len(some):7} {100 * hit:6.1f} % {100 * chance:5.1f} % {length:5.2f} s"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="questions.jsonl of a folder made by `ep synth`")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--sieve")
    parser.add_argument("--reducer", default="cs2")
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--limit", type=int, help="read only the first N questions")
    asked = parser.parse_args()
    found = list(measured(asked.data, asked.model, asked.sieve, asked.limit, reducer=asked.reducer, keep=asked.keep))
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
