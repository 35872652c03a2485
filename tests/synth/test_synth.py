"""SyncClips follow the rules of docs/syncclips.md: plans, questions, frames, audio and files."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest

from echoingpixels.synth.assets import OBJECTS, SOUNDS, WORDS
from echoingpixels.synth.plan import plan
from echoingpixels.synth.questions import KINDS, OPTIONS, Question, pick, questions
from echoingpixels.synth.render import Scene, frame, waveform
from echoingpixels.synth.timeline import CORNERS, Event, Timeline

PLANS = [plan(11, index) for index in range(600)]
ASKED = [questions(line, np.random.default_rng(line.index)) for line in PLANS]
TINY = 1e-6


def audible(line: Timeline) -> list[Event]:
    return [event for event in line.events if event.kind != "object"]


def test_the_same_seed_and_index_give_the_same_plan_in_any_order() -> None:
    for index in (5, 3, 400, 3):
        assert plan(11, index) == PLANS[index]
    assert plan(12, 3) != PLANS[3]


def test_each_block_of_four_clips_holds_every_regime_once() -> None:
    for first in range(0, 600, 4):
        assert {line.regime for line in PLANS[first : first + 4]} == {"balanced", "watch", "listen", "busy"}


def test_a_clip_is_the_same_whichever_regimes_are_drawn_beside_it() -> None:
    for line in PLANS[:40]:
        assert plan(11, line.index, (line.regime,)) == line


def test_length_size_and_rates_stay_within_the_rules() -> None:
    for line in PLANS:
        assert 4 - TINY <= line.duration <= 10 + TINY and 8 <= line.fps <= 30
        assert 128 <= min(line.width, line.height) <= 360 and line.width % 2 == line.height % 2 == 0
        assert 9 / 16 <= line.width / line.height <= 16 / 9
        if line.track is not None:
            assert line.track.rate in (22_050, 44_100, 48_000) and line.track.snr >= 5
            assert line.track.codec != "opus" or line.track.rate == 48_000
            assert all(line.track.snr + event.gain <= 30 for event in audible(line))


def test_at_most_two_objects_are_visible_at_once_and_never_in_one_corner() -> None:
    for line in PLANS:
        objects = line.of("object")
        assert len({thing.what for thing in objects}) == len(objects)
        for number in range(line.frames):
            t = (number + 0.5) / line.fps
            visible = [thing for thing in objects if thing.start <= t < thing.end]
            assert len(visible) <= 2 and len({thing.corner for thing in visible}) == len(visible)


def test_objects_last_a_second_and_start_apart_on_a_frame() -> None:
    for line in PLANS:
        objects = line.of("object")
        assert all(a.start + 0.75 <= b.start for a, b in pairwise(objects))
        for thing in objects:
            assert thing.what in OBJECTS and thing.corner in CORNERS and thing.length >= 1
            assert thing.start >= 0 and thing.end <= line.duration + 1e-4
            assert thing.start * line.fps == pytest.approx(round(thing.start * line.fps), abs=0.005)
            assert thing.pose is not None and 0.25 <= thing.pose.size <= 0.45


def test_sounds_and_words_never_overlap_and_start_apart() -> None:
    for line in PLANS:
        for a, b in combinations(audible(line), 2):
            assert a.end <= b.start and a.start + 0.75 <= b.start
        for event in audible(line):
            assert event.start >= 0 and event.end <= line.duration + 1e-4
            assert event.what in (SOUNDS if event.kind == "sound" else WORDS)
            assert event.kind == "word" or 0.5 <= event.length <= 2


def test_each_regime_has_its_objects_and_sounds() -> None:
    for line in PLANS:
        objects, sounds = len(line.of("object")), len(audible(line))
        if line.regime in ("balanced", "busy"):
            assert 1 <= objects <= 4 and 1 <= sounds <= 4 and line.track is not None
        elif line.regime == "watch":
            assert 2 <= objects <= 4 and sounds == 0
        else:
            assert objects <= 1 and 2 <= sounds <= 4 and line.track is not None
            assert all(thing.start == 0 and abs(thing.end - line.duration) < 1e-4 for thing in line.of("object"))


def test_watch_clips_have_noise_or_no_track_at_all() -> None:
    silent = Counter(line.track is None for line in PLANS if line.regime == "watch")
    assert silent[True] > 50 and silent[False] > 50


def test_a_listening_clip_has_one_still_picture() -> None:
    for line in [line for line in PLANS if line.regime == "listen"][:12]:
        scene = Scene.of(line)
        assert np.array_equal(scene.frame(0.0), scene.frame(line.duration - 0.01))


def slow_answers(line: Timeline, question: Question) -> set[str]:
    """Every answer that the events support, derived from the wording alone."""
    text, objects, sounds = question.question, line.of("object"), line.of("sound")
    named = [name for name in (*OBJECTS, *SOUNDS) if f"the {name} " in text.replace("?", " ")]
    of = {name: [event for event in line.events if event.what == name] for name in named}

    def meet(a: Event, b: Event) -> bool:
        return min(a.end, b.end) - max(a.start, b.start) >= 0.8 * a.length

    if text.startswith("Which object appears"):
        return {sorted((thing.start, thing.what) for thing in objects)[-("last" in text)][1]}
    if text.startswith("Which sound is heard"):
        return {sorted((sound.start, sound.what) for sound in sounds)[-("last" in text)][1]}
    if text.startswith("Which object is visible"):
        return {thing.what for thing in objects if meet(of[named[0]][0], thing)}
    if text.startswith("Which sound plays"):
        return {sound.what for sound in sounds if meet(sound, of[named[0]][0])}
    if text.startswith("Which number"):
        words = line.of("word")
        return {word.what for word in words if not named or meet(word, of[named[0]][0])}
    if text.startswith("How many"):
        return {("zero", "one", "two", "three", "four")[len(of[named[0]])]}
    if "before" in text:
        return {"yes" if of[named[0]][0].start < of[named[1]][0].start else "no"}
    if text.startswith("In which corner"):
        return {str(of[named[0]][0].corner)}
    return {"yes" if of[named[0]] else "no"}


def test_the_events_support_every_answer_and_no_other() -> None:
    for line, asked in zip(PLANS, ASKED, strict=True):
        for question in asked:
            assert slow_answers(line, question) == {question.answer}, (line, question)
            assert question.answer in question.options and question.options == OPTIONS[question.kind]


def test_a_question_is_asked_only_where_it_is_unambiguous() -> None:
    for line, asked in zip(PLANS, ASKED, strict=True):
        counts = Counter(event.what for event in line.events)
        starts = {event.what: event.start for event in line.events}
        for question in asked:
            named = [name for name in (*OBJECTS, *SOUNDS) if f"the {name} " in question.question.replace("?", " ")]
            if question.kind not in ("count_sound", "exists_sound", "exists_object"):
                assert all(counts[name] == 1 for name in named)
            if question.kind == "order":
                assert abs(starts[named[0]] - starts[named[1]]) >= 0.75
            if question.kind.endswith("_object") and question.kind[:5] in ("first", "last_"):
                assert len(line.of("object")) > 1
            if question.kind in ("first_sound", "last_sound"):
                assert len({sound.what for sound in line.of("sound")}) > 1
            if question.kind == "word":
                assert len(line.of("word")) == 1
        assert len({question.question for question in asked}) == len(asked)


def test_yes_and_no_are_equal_in_every_clip_and_kind() -> None:
    for asked in ASKED:
        answers = Counter((question.kind, question.answer) for question in asked)
        for kind in ("order", "exists_object", "exists_sound"):
            assert answers[kind, "yes"] == answers[kind, "no"]


def test_every_kind_and_every_count_is_asked_often() -> None:
    picked = [q for i, asked in enumerate(ASKED) for q in pick(asked, np.random.default_rng(i), 3)]
    kinds = Counter(question.kind for question in picked)
    assert set(kinds) == set(KINDS) and min(kinds.values()) >= 0.01 * len(picked), kinds
    counts = Counter(question.answer for question in picked if question.kind == "count_sound")
    assert set(counts) == {"zero", "one", "two", "three", "four"} and min(counts.values()) >= 5, counts
    corners = Counter(question.answer for question in picked if question.kind == "where")
    assert min(corners.values()) > 0.15 * corners.total()


def test_kinds_are_drawn_evenly_among_those_a_clip_allows() -> None:
    asked = max(ASKED, key=lambda asked: len({question.kind for question in asked}))
    kinds = {question.kind for question in asked}
    drawn = Counter(pick(asked, np.random.default_rng(i), 1)[0].kind for i in range(2000))
    assert set(drawn) == kinds
    assert all(abs(drawn[kind] - 2000 / len(kinds)) < 5 * (2000 / len(kinds)) ** 0.5 for kind in kinds)
    three = pick(asked, np.random.default_rng(0), 3)
    assert len({question.kind for question in three}) == 3


def test_every_clip_allows_three_questions() -> None:
    assert min(len(asked) for asked in ASKED) >= 3


def test_a_sprite_is_drawn_in_its_corner_and_nowhere_else() -> None:
    lines = [line for line in PLANS if line.look.pan == (0, 0) and not line.look.drift and not line.look.grain]
    for line in [line for line in lines if line.regime == "watch"][:10]:
        thing = line.of("object")[-1]
        moments = np.arange(0, line.duration, 0.05)
        alone = [t for t in moments if not any(e.start - 0.1 <= t < e.end for e in line.events)]
        visible = [t for t in np.arange(thing.start + 0.5 / line.fps, thing.end, 0.1)
                   if sum(e.start <= t < e.end for e in line.of("object")) == 1]  # fmt: skip
        if not alone or not visible:
            continue
        changed = np.argwhere((frame(line, visible[0]) != frame(line, float(alone[0]))).any(-1))  # (n, 2) as y, x
        (top, left), (bottom, right) = changed.min(0), changed.max(0)
        half = (line.height // 2, line.width // 2)
        assert bottom < half[0] if "top" in str(thing.corner) else top >= half[0]
        assert right < half[1] if "left" in str(thing.corner) else left >= half[1]
        size = max(bottom - top, right - left) + 1
        assert 0.22 * min(line.width, line.height) <= size <= 0.46 * min(line.width, line.height)


def test_sound_stands_out_of_the_noise_exactly_between_its_start_and_end() -> None:
    for line in [line for line in PLANS if line.regime == "listen" and line.track and line.track.snr > 15][:10]:
        audio = waveform(line, 16_000)
        assert audio is not None and len(audio) == round(line.duration * 16_000) and np.abs(audio).max() <= 1
        quiet = np.ones(len(audio), bool)
        for event in audible(line):
            quiet[round(event.start * 16_000) - 1 : round(event.end * 16_000) + 1] = False
        floor = np.sqrt(np.mean(audio[quiet] ** 2))
        for event in audible(line):
            part = audio[round(event.start * 16_000) : round(event.end * 16_000)]
            assert 4 < 20 * np.log10(np.sqrt(np.mean(part**2)) / floor) < 32
