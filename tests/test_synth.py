"""SyncClips follow the rules of docs/syncclips.md: plans, questions, frames, audio and files."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from echoingpixels.errors import OptionError
from echoingpixels.synth.assets import OBJECTS, SOUNDS, WORDS
from echoingpixels.synth.dataset import generate
from echoingpixels.synth.encode import encode, read_signature, signature
from echoingpixels.synth.plan import plan
from echoingpixels.synth.questions import KINDS, OPTIONS, Question, pick, questions
from echoingpixels.synth.render import Scene, frame, waveform
from echoingpixels.synth.timeline import CORNERS, Event, Timeline
from tools.tiny.sample import sample

PLANS = [plan(11, index) for index in range(600)]
ASKED = [questions(line, np.random.default_rng(line.index)) for line in PLANS]
TINY = 1e-6


def audible(line: Timeline) -> list[Event]:
    return [event for event in line.events if event.kind != "object"]


def test_the_same_seed_and_index_give_the_same_plan_in_any_order() -> None:
    for index in (5, 3, 400, 3):
        assert plan(11, index) == PLANS[index]
    assert plan(12, 3) != PLANS[3]


def test_each_block_of_three_clips_holds_every_regime_once() -> None:
    for first in range(0, 600, 3):
        assert {line.regime for line in PLANS[first : first + 3]} == {"balanced", "watch", "listen"}


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
        if line.regime == "balanced":
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
        visible = [t for t in np.arange(thing.start, thing.end, 0.1)
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


def test_a_sample_shows_the_native_frame_at_or_before_each_time() -> None:
    for index in range(6):
        line, frames, times, audio = sample(4, index, fps=2.0, max_side=160)
        assert len(frames) == len(times) == int(np.ceil(line.duration * 2 - TINY)) and frames.dtype == np.uint8
        wanted = np.arange(len(times)) / 2
        assert np.all(times <= wanted + TINY) and np.all(wanted - times < 1 / line.fps)
        assert max(frames.shape[1:3]) <= 160 and (audio is None) == (line.track is None)
        scene = Scene.of(line, min(1.0, 160 / max(line.width, line.height)))
        assert np.abs(frames[0].astype(int) - scene.frame(0.0)).mean() < 25


def test_the_same_sample_comes_twice() -> None:
    index = next(index for index in range(9) if plan(4, index).regime == "balanced")
    first, again = sample(4, index), sample(4, index)
    assert first[0] == again[0] and np.array_equal(first[1], again[1]) and np.array_equal(first[2], again[2])
    assert first[3] is not None and again[3] is not None and np.array_equal(first[3], again[3])


def lone_starts(line: Timeline) -> list[int]:
    """The native frames at which an object appears while no other comes or goes within two frames."""
    edges = [round(edge * line.fps) for thing in line.of("object") for edge in (thing.start, thing.end)]
    starts = [round(thing.start * line.fps) for thing in line.of("object")]
    return [start for start in starts if start > 2 and sum(abs(edge - start) <= 2 for edge in edges) == 1]


@pytest.mark.parametrize(("container", "audio"), [("mp4", "aac"), ("mp4", "mp3"), ("webm", "opus"), ("mkv", "aac")])
def test_a_decoded_file_shows_and_sounds_when_the_events_say(tmp_path: Path, container: str, audio: str) -> None:
    line = next(
        line for line in (plan(21, index) for index in range(5000))
        if line.container == container and line.track and line.track.codec == audio and line.track.snr > 15
        and line.track.noise in ("white", "pink")  # a steady floor: brown noise swells by itself
        and line.regime == "balanced" and audible(line)[0].start > 0.5 and lone_starts(line)
        and not line.look.grain and not line.look.drift and line.look.pan == (0, 0)
    )  # fmt: skip
    path = tmp_path / f"clip.{container}"
    encode(line, path)
    assert read_signature(path) == signature(line)
    pictures, times, sound, rate = decoded(path)
    assert len(pictures) == line.frames
    assert np.allclose(times, np.arange(line.frames) / line.fps, atol=0.0011)
    for start in lone_starts(line):
        steps = [np.abs(pictures[i].astype(int) - pictures[i - 1]).mean() for i in range(start - 1, start + 2)]
        assert steps[1] > 2 * steps[0] and steps[1] > 2 * steps[2], (start, steps)
    first = audible(line)[0]
    levels = np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(sound, len(sound) // (rate // 100))])
    floor = levels[: int((first.start - 0.03) * 100)].mean()
    loud = np.flatnonzero(levels > 3 * floor)[0] / 100
    assert abs(loud - first.start) < 0.05, (loud, first)


def decoded(path: Path) -> tuple[list[np.ndarray], list[float], np.ndarray, int]:
    """Pictures, their times in s, mono samples, their rate in Hz."""
    pictures, times, chunks, rate = [], [], [], 0
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            pictures.append(picture.to_ndarray(format="rgb24"))
            times.append(float(picture.time))
    with av.open(str(path)) as container:
        for chunk in container.decode(audio=0):
            chunks.append(chunk.to_ndarray().astype(np.float32).mean(0))
            rate = chunk.sample_rate
            assert chunk.format.is_planar, "a packed format needs its channels taken apart first"
    return pictures, times, np.concatenate(chunks), rate


def test_a_data_set_can_be_resumed_and_is_the_same_when_made_again(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = generate(tmp_path / "a", 3, seed=2, on_progress=lambda done, total: seen.append((done, total)))
    assert target == tmp_path / "a" / "questions.jsonl" and seen == [(1, 3), (2, 3), (3, 3)]
    text = target.read_text(encoding="utf-8")
    clips = sorted((tmp_path / "a" / "clips").iterdir())
    whole = {clip.name: clip.read_bytes() for clip in clips}
    kept = clips[0].stat().st_mtime_ns
    clips[2].unlink()
    clips[2].with_name(clips[2].name + ".part").write_bytes(b"cut short")
    target.unlink()
    assert generate(tmp_path / "a", 3, seed=2).read_text(encoding="utf-8") == text
    assert clips[0].stat().st_mtime_ns == kept
    assert {clip.name: clip.read_bytes() for clip in (tmp_path / "a" / "clips").iterdir()} == whole


def test_questions_that_are_not_the_first_of_the_new_ones_are_overwritten_only_by_force(tmp_path: Path) -> None:
    first = generate(tmp_path, 1, seed=2).read_text(encoding="utf-8")
    target = generate(tmp_path, 2, seed=2)
    assert target.read_text(encoding="utf-8").startswith(first)  # more of the same is no loss
    for old in (target.read_text(encoding="utf-8"), "mine\n"):
        target.write_text(old, encoding="utf-8")
        with pytest.raises(OptionError, match="holds other questions"):
            generate(tmp_path, 1, seed=2)
        assert target.read_text(encoding="utf-8") == old
    assert generate(tmp_path, 1, seed=2, force=True).read_text(encoding="utf-8") == first


def test_question_rows_have_exactly_the_documented_keys(tmp_path: Path) -> None:
    target = generate(tmp_path, 2, seed=6, questions_per_clip=2)
    rows = [json.loads(row) for row in target.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4 and len({row["id"] for row in rows}) == 4
    for row in rows:
        assert set(row) == {"id", "media", "question", "answer", "kind", "regime", "options", "events"}
        assert (target.parent / row["media"]).is_file() and row["answer"] in row["options"]
        assert all(set(event) == {"what", "start", "end", "corner"} for event in row["events"])
    assert Path(rows[0]["media"]).stem == "000001" and Path(rows[-1]["media"]).stem == "000002"


def test_invalid_arguments_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in ((tmp_path, 0, 1, 3), (tmp_path, 1, -1, 3), (tmp_path, 1, 1, 0), (tmp_path / "file", 1, 1, 3)):
        with pytest.raises(OptionError):
            generate(*arguments)
    container = plan(1, 0).container
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / f"000001.{container}").write_bytes(b"another seed's clip")
    with pytest.raises(OptionError, match="another clip"):
        generate(tmp_path, 1, 1)
    generate(tmp_path, 1, 1, force=True)
    assert (tmp_path / "clips" / f"000001.{container}").stat().st_size > 1000
