"""The measurement of evidence times: which event decides a question, and the chance of a random moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from echoingpixels.generation.evidence import Moment
from echoingpixels.synth.dataset import generate
from tools.evidence import beside, event_of, main

EVENTS = [
    {"what": "cat", "start": 1.0, "end": 4.0, "corner": "top left"},
    {"what": "bell", "start": 2.0, "end": 3.0, "corner": None},
    {"what": "dog", "start": 6.0, "end": 8.0, "corner": "top left"},
    {"what": "two", "start": 6.5, "end": 7.0, "corner": None},
    {"what": "drum", "start": 8.0, "end": 8.5, "corner": None},
    {"what": "drum", "start": 9.0, "end": 9.5, "corner": None},
]


@pytest.mark.parametrize(
    ("kind", "question", "answer", "event"),
    [
        ("where", "In which corner is the dog?", "top left", 2),
        ("exists_object", "Does the cat appear?", "yes", 0),
        ("exists_object", "Does the cow appear?", "no", None),
        ("exists_sound", "Is the bell heard?", "yes", 1),
        ("exists_sound", "Is the drum heard?", "yes", None),
        ("object_at_sound", "Which object is visible when the bell plays?", "cat", 1),
        ("sound_with_object", "Which sound plays while the cat is visible?", "bell", 1),
        ("word_with_object", "Which number is spoken while the dog is visible?", "two", 3),
        ("word", "Which number is spoken?", "two", 3),
        ("first_object", "Which object appears first?", "cat", 0),
        ("last_sound", "Which sound is heard last?", "drum", 5),
        ("order", "Does the cat appear before the bell plays?", "yes", None),
        ("count_sound", "How many times does the drum play?", "two", None),
    ],
)
def test_a_question_about_one_event_names_it(kind: str, question: str, answer: str, event: int | None) -> None:
    found = event_of({"kind": kind, "question": question, "answer": answer, "events": EVENTS})
    assert found == (None if event is None else EVENTS[event])


@pytest.mark.parametrize(("start", "end", "event"), [(3.0, 4.5, 1), (0.0, 1.0, 2), (0.0, 10.0, 3), (2.0, 8.0, 5)])
def test_chance_is_the_share_of_random_moments_that_overlap(start: float, end: float, event: int) -> None:
    found = beside("where", Moment(start, end, 1.0), EVENTS[event], 10.0)
    starts = np.linspace(0, 10 - (end - start), 10_001)
    overlap = (starts < EVENTS[event]["end"]) & (EVENTS[event]["start"] < starts + end - start)
    assert found.chance == pytest.approx(overlap.mean(), abs=1e-3) and found.length == end - start
    assert found.hit == (max(start, EVENTS[event]["start"]) < min(end, EVENTS[event]["end"]))


def test_the_first_moments_on_a_few_clips_find_their_events_more_often_than_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = generate(tmp_path, 5, seed=3)
    monkeypatch.setattr("sys.argv", ["evidence", str(questions), "--keep", "0.2"])
    main()
    *_, total = capsys.readouterr().out.splitlines()
    name, answers, overlap, _, chance, *_ = total.split()
    assert name == "all" and int(answers) >= 5 and float(overlap) > float(chance) + 20
