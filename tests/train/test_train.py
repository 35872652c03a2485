"""The examples of training: targets from timelines, packed questions, the bank of SyncClips."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.errors import DataError
from echoingpixels.reducers.cs2 import Sieve, SieveOptions
from echoingpixels.train.answers import answer_loss, answer_of, focal, loss_of
from echoingpixels.train.draws import Draw, Draws
from echoingpixels.train.examples import Example, batch
from echoingpixels.train.recipe import Ask, Stage
from tests.support.smalltrain import SIZES
from tools.tiny import bank, labels
from tools.tiny.bank import FURTHER, ClipSet, Reader, example, fill, is_rich
from tools.tiny.build import build_backbone
from tools.tiny.sample import planned, scene_of


@pytest.fixture(scope="module")
def backbone() -> QwenOmni:
    torch.manual_seed(0)
    return build_backbone(SIZES, "small")


@pytest.fixture(scope="module")
def examples(backbone: QwenOmni) -> list[Example]:
    return [example(backbone, 3, index, 4) for index in range(3)]


def test_questions_of_one_clip_do_not_attend_to_one_another(backbone: QwenOmni, examples: list[Example]) -> None:
    packed = batch(backbone, [(one, one.questions) for one in examples])
    with torch.no_grad():
        hidden = backbone.hidden(packed.stream, attention=packed.attention())
        for row, one in enumerate(examples):
            for number, question in enumerate(one.questions, 1):
                alone = batch(backbone, [(one, (question,))])
                expected = backbone.hidden(alone.stream)[0, alone.part[0] == 1]
                torch.testing.assert_close(hidden[row, packed.part[row] == number], expected, atol=1e-5, rtol=1e-4)


def test_a_stage_asks_its_kinds_alone_and_kinds_evenly(backbone: QwenOmni, tmp_path: Path) -> None:
    fill(backbone, tmp_path, ClipSet(3, clips=8, shard=8, questions=16))
    source = Reader(tmp_path, 3)
    stage = Stage("names", "answers", steps=4, batch=8, ask=(Ask(4, ("where", "word")),))
    asked = [question.kind for item in range(4) for _, questions in Draws(source, stage, 1, 1)[item].asked
             for question in questions]  # fmt: skip
    assert set(asked) == {"where", "word"}
    facts = replace(stage, ask=(Ask(4, ("where",)), Ask(3, ("<order>",))))
    found = [Counter(question.kind for question in questions) for _, questions in Draws(source, facts, 1, 1)[0].asked]
    assert set().union(*found) == {"where", "<order>"} and max(one["<order>"] for one in found) == 3
    every = replace(stage, ask=(Ask(4),))
    for clip, questions in Draws(source, every, 1, 1)[0].asked:
        kinds = Counter(question.kind for question in questions)
        assert len(questions) == min(4, len(clip.questions))
        assert len(kinds) == min(len(questions), len({question.kind for question in clip.questions}))
    with pytest.raises(DataError, match="'names' asks"):
        Draws(source, replace(stage, ask=(Ask(4, ("none",)),)), 1, 1)[0]


@settings(max_examples=50, deadline=None)
@given(p=st.lists(st.floats(1e-4, 1), min_size=1, max_size=8), focus=st.floats(1, 5))
def test_a_focus_scales_each_loss_by_a_power_of_its_improbability(p: list[float], focus: float) -> None:
    likely = torch.tensor(p, dtype=torch.float64)
    torch.testing.assert_close(focal(-likely.log(), 0.0), -likely.log())
    torch.testing.assert_close(focal(-likely.log(), focus), -likely.log() * (1 - likely) ** focus)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_an_answer_is_a_run_of_labels_in_a_row(rows: list[list[bool]]) -> None:
    labelled = torch.tensor(rows)
    numbers, answer = [], -1
    for row in rows:
        for token, previous in zip(row, [False, *row], strict=False):
            answer += token and not previous
            numbers += [answer] * token
    assert answer_of(labelled).tolist() == numbers


def test_a_focus_reaches_the_loss_of_the_answers(backbone: QwenOmni, examples: list[Example]) -> None:
    made = batch(backbone, [(one, one.questions) for one in examples])
    losses = [answer_loss(backbone, made.stream, made.attention(), focus=focus)[0].item() for focus in (0.0, 2.0)]
    assert 0 < losses[1] < losses[0]


def test_a_bank_adds_the_clips_that_combine_picture_and_sound(backbone: QwenOmni, tmp_path: Path) -> None:
    fill(backbone, tmp_path, ClipSet(3, clips=2, shard=2, questions=4, searched=30))
    reader = Reader(tmp_path, 3)
    (drawn,) = reader.draw(np.random.default_rng(0), 1)
    assert drawn.statements
    further = reader.examples[2:]
    assert [one.index for one in reader.examples[:2]] == [0, 1]
    assert [one.index for one in further] == [i for i in range(FURTHER, FURTHER + 30) if is_rich(planned(3, i))]
    assert 0 < len(further) < 15
    made = example(backbone, 3, further[0].index, 4)
    assert (further[0].span, further[0].questions) == (made.span, made.questions)


def test_a_clip_is_rich_only_where_there_is_a_choice() -> None:
    rich = [timeline for timeline in (planned(3, index) for index in range(200)) if is_rich(timeline)]
    assert rich
    for timeline in rich:
        objects, sounds = timeline.of("object"), timeline.of("sound")
        assert not is_rich(replace(timeline, events=(objects[0], sounds[0])))
        assert not is_rich(replace(timeline, events=tuple(objects)))


def test_a_soft_gate_adds_the_distillation_loss_by_its_weight(backbone: QwenOmni, examples: list[Example]) -> None:
    sieve = Sieve(backbone, SieveOptions(1, "extractive"))
    asked = [(one, one.questions[:1]) for one in examples]
    kl, _ = loss_of(backbone, sieve, Draw("distil", 0, asked))
    gated = [Draw("sieve", 0, asked, keep=0.2, temperature=0.4, distil_weight=weight) for weight in (0.0, 0.5)]
    answers, both = (loss_of(backbone, sieve, draw)[0] for draw in gated)
    torch.testing.assert_close(both, answers + 0.5 * kl)
    assert float(kl.detach()) > 0


def test_the_object_is_labelled_where_its_box_is() -> None:
    found = 0
    for index in range(30):
        timeline = planned(11, index)
        for event in timeline.of("object"):
            middle = (event.start + event.end) / 2
            cells = labels.objects(scene_of(timeline, 256), middle, 4, 6).view(4, 6)
            rows, columns = (cells == labels.OBJECT_CLASSES.index(event.what)).nonzero(as_tuple=True)
            assert len(rows), (index, event)
            assert event.corner is not None
            assert (rows.float().mean() >= 1.5) == ("bottom" in event.corner)
            assert (columns.float().mean() >= 2.5) == ("right" in event.corner)
            found += 1
    assert found > 20


def test_sounds_are_labelled_over_their_interval() -> None:
    timeline = next(t for t in (planned(11, i) for i in range(50)) if t.of("sound"))
    sound = timeline.of("sound")[0]
    what, onset = labels.sounds(timeline, round(timeline.duration * 25))
    assert int(what[round((sound.start + 0.1) * 25)]) == labels.SOUND_CLASSES.index(sound.what)
    assert int(onset[round(sound.start * 25)]) == 1
    assert int(what[max(0, round(sound.start * 25) - 1)]) != labels.SOUND_CLASSES.index(sound.what)


def test_a_bank_reads_back_what_was_filled(backbone: QwenOmni, tmp_path: Path) -> None:
    fill(backbone, tmp_path, ClipSet(3, clips=3, shard=2, questions=4))
    reader = Reader(tmp_path, 3)
    reader.refresh()
    made = example(backbone, 3, 2, 4)
    assert len(reader.examples) == 3
    assert reader.examples[2].span == made.span
    assert reader.examples[2].questions == made.questions
    for name in ("video", "audio"):
        kept, new = getattr(reader.examples[2].features, name), getattr(made.features, name)
        assert (kept is None) == (new is None)
        if new is not None:
            torch.testing.assert_close(kept.float(), new.float(), atol=1e-2, rtol=1e-2)


def test_two_processes_fill_a_bank_between_them(backbone: QwenOmni, tmp_path: Path) -> None:
    wanted = ClipSet(3, clips=3, shard=1, questions=4)
    names = list(wanted.names(backbone))
    for process, parts in ((1, [1]), (0, [0, 1, 2])):
        fill(backbone, tmp_path, wanted, process, 2)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[part] for part in parts)


def test_a_bank_is_read_by_the_weights_and_options_that_made_it(backbone: QwenOmni, tmp_path: Path) -> None:
    wanted = ClipSet(3, clips=2, shard=2, questions=4)

    def kept(one: ClipSet, on: QwenOmni = backbone) -> int:
        reader = Reader(tmp_path, 3, one.names(on))
        reader.refresh()
        return len(reader)

    fill(backbone, tmp_path, wanted)
    changes: list[dict[str, int]] = [{"questions": 5}, {"shard": 1}, {"clips": 1}, {"seed": 4}]
    assert kept(wanted) == 2 and [kept(replace(wanted, **change)) for change in changes] == [0] * 4
    larger = build_backbone(replace(SIZES, max_pixels=2 * SIZES.max_pixels), "small")
    larger.thinker.load_state_dict(backbone.thinker.state_dict())
    assert kept(wanted, larger) == 0
    larger.resolution, larger.name = backbone.resolution, "another name"
    assert kept(wanted, larger) == 2
    with torch.no_grad():
        next(larger.thinker.model.visual.parameters()).view(-1)[-1] += 0.1  # as a training step does
    assert kept(wanted, larger) == 0
    more = replace(wanted, clips=4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    fill(backbone, tmp_path, more)
    assert kept(more) == 4 and all(path.stat().st_mtime_ns == age for path, age in before.items())


def test_a_stage_without_a_bank_waits_for_a_sign_of_life_and_not_for_ever(
    backbone: QwenOmni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    wanted = ClipSet(3, clips=1, shard=1, questions=4)

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if 200 <= clock[0] <= 900:  # a process is at work, and ends without a shard
            (tmp_path / bank.FILLING).touch()
            os.utime(tmp_path / bank.FILLING, (clock[0], clock[0]))

    monkeypatch.setattr(bank.time, "sleep", sleep)
    monkeypatch.setattr(bank.time, "monotonic", lambda: clock[0])
    with pytest.raises(DataError, match="holds no features of these weights and options") as error:
        Reader(tmp_path, 3, wanted.names(backbone)).draw(np.random.default_rng(0), 1)
    assert 900 + bank.PATIENCE <= clock[0] <= 900 + bank.PATIENCE + 10
    assert "--stage bank" in error.value.hint and "--stage bank" in capsys.readouterr().out
