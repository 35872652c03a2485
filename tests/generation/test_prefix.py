"""What the decoder has read of a clip serves its next questions: the answers are those of the whole prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.generation.answer import Answer
from echoingpixels.generation.decode import prefill
from echoingpixels.generation.prefix import Prefixes, continued
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.reducers.registry import REDUCERS
from echoingpixels.report import Stopwatch
from tests.support import tinymodel

QUESTIONS = ("Who rings the bell?", "When?", "How many times does the drum play?")
FREE = sorted(name for name, reducer in REDUCERS.items() if not reducer.reads_question)
SHORT = GenerateOptions(8)


@pytest.fixture
def model() -> EchoingPixels:
    return tinymodel.model()


@pytest.fixture
def clips(model: EchoingPixels) -> list[EncodedClip]:
    """Clips of unequal length; the second has no sound."""
    return [model.encode(tinymodel.clip(2.0)), model.encode(tinymodel.clip(5.0, sound=False, seed=1))]


def new(clip: EncodedClip) -> EncodedClip:
    """The same clip, of which the decoder has read nothing."""
    return replace(clip, prefixes=Prefixes())


def facts(answer: Answer) -> object:
    """All of an answer that no reuse may change."""
    report = answer.report
    counts = report.tokens, report.flops, report.encoded, report.first_layer, report.last_layer
    return answer.token_ids, answer.text, answer.finish_reason, answer.kept_times, counts, str(answer.evidence)


def test_which_reducers_do_not_read_the_question() -> None:
    same = {"maxmin", "maxmin-floors", "diverse", "diverse-saliency", "repeats", "uniform", "random", "full"}
    assert set(FREE) == same


@pytest.mark.parametrize("reducer", FREE)
def test_later_questions_have_the_answers_of_the_whole_prompt(clips: list[EncodedClip], reducer: str) -> None:
    options = AskOptions(reducer, 0.4, SHORT)
    for clip in clips:
        whole = [clip.ask(question, replace(options, reuse_prefix=False)) for question in QUESTIONS]
        assert len({answer.text for answer in whole}) > 1 and clip.prefixes.prefix is None
        one_by_one = [clip.ask(question, options) for question in QUESTIONS]
        assert clip.prefixes.prefix is not None
        assert list(map(facts, one_by_one)) == list(map(facts, whole))


@pytest.mark.parametrize("reducer", ["maxmin-floors", "full"])
@pytest.mark.parametrize("read", [(), (0,), (0, 1)])
def test_a_batch_of_several_clips_and_questions_has_the_same_answers(
    model: EchoingPixels, clips: list[EncodedClip], reducer: str, read: tuple[int, ...]
) -> None:
    options = AskOptions(reducer, 0.4, SHORT)
    for i in read:
        clips[i].ask("What is this?", options)
    asked = [(clips[i], question) for question in QUESTIONS for i in (0, 1)]
    made = model.answer(asked, options)
    alone = [clip.ask(question, replace(options, reuse_prefix=False)) for clip, question in asked]
    assert list(map(facts, made)) == list(map(facts, alone))


def test_hidden_states_are_those_of_the_whole_prompt(model: EchoingPixels, clips: list[EncodedClip]) -> None:
    on, choice = model.backbone, ("maxmin", 0.4)
    rows = [clips[i].prompt(question).prefix_row for i, question in ((0, QUESTIONS[0]), (1, QUESTIONS[1]))]
    stream, spent = continued(on, rows, choice, model.select, Stopwatch(on.device))
    mine = prefill(on, stream, SHORT).hidden
    assert [times.known() for times in spent] == [{}, {}]
    for row, (i, question) in enumerate(((0, QUESTIONS[0]), (1, QUESTIONS[1]))):
        whole = model.embed(clips[i].prompt(question))
        kept = whole.take(model.select(whole, *choice))
        assert torch.allclose(mine[row], prefill(on, kept, SHORT).hidden[0], atol=2e-5)
        assert int(stream.next_position[row]) == int(whole.next_position)


def test_a_question_aware_reducer_reads_the_clip_again(clips: list[EncodedClip]) -> None:
    for reducer in sorted(set(REDUCERS) - set(FREE)):
        clips[0].ask(QUESTIONS[0], AskOptions(reducer, 0.4, SHORT))
        assert clips[0].prefixes.prefix is None, reducer


@pytest.mark.parametrize("way", [{"reuse_prefix": False}, {"static": True}])
def test_nothing_is_kept_where_nothing_is_to_be_reused(clips: list[EncodedClip], way: dict[str, bool]) -> None:
    clips[0].ask(QUESTIONS[0], reducer="maxmin", max_new_tokens=2, **way)
    assert clips[0].prefixes.prefix is None


def test_another_ratio_or_reducer_replaces_what_is_kept(clips: list[EncodedClip]) -> None:
    clip, lengths = clips[0], []
    for reducer, keep in (("maxmin", 0.4), ("maxmin", 0.2), ("uniform", 0.2), ("maxmin", 0.4)):
        answer = clip.ask(QUESTIONS[0], reducer=reducer, keep=keep, max_new_tokens=4)
        assert facts(answer) == facts(new(clip).ask(QUESTIONS[0], answer.options))
        assert clip.prefixes.prefix is not None
        lengths.append(clip.prefixes.prefix.stream.mask.shape[1])
    assert lengths[0] == lengths[3] > lengths[1] == lengths[2]


def test_a_selection_callback_gets_the_whole_stream_every_time(clips: list[EncodedClip]) -> None:
    seen: list[int] = []
    for question in QUESTIONS:
        clips[0].ask(question, AskOptions("maxmin", 0.4, SHORT), lambda stream, _: seen.append(int(stream.pool.sum())))
    assert seen == [clips[0].media.span.tokens] * 3


def test_the_report_separates_the_question_from_the_clip(clips: list[EncodedClip]) -> None:
    clip, options = clips[1], AskOptions("maxmin", 0.4, SHORT)
    first, second = (clip.ask(question, options) for question in QUESTIONS[:2])
    for answer in (first, second):
        own, whole = answer.report.question_s.known(), answer.report.time_s.known()
        assert set(own) == {"select", "prefill", "generate", "evidence"} < set(whole)
        assert answer.report.as_dict()["question_s"]["total"] == answer.report.question_s.total
    read, kept = clip.prefixes.prefix, second.report
    assert read is not None and first.report.time_s.prefill == first.report.question_s.prefill
    assert kept.time_s.prefill == pytest.approx(kept.question_s.prefill + read.time_s.prefill)


def test_a_comparison_reuses_nothing(clips: list[EncodedClip], monkeypatch: pytest.MonkeyPatch) -> None:
    reduced, full = clips[0].compare(QUESTIONS[0], AskOptions("maxmin", 0.4, SHORT))
    assert clips[0].prefixes.prefix is None and reduced.report.speedup.measured is not None
    assert reduced.report.tokens.kept_ratio < full.report.tokens.kept_ratio == 1


def test_what_is_kept_does_not_hold_the_rest_of_its_batch(model: EchoingPixels, clips: list[EncodedClip]) -> None:
    model.answer([(clip, "Who?") for clip in clips], AskOptions("maxmin", 0.4, SHORT))
    for clip in clips:
        assert clip.prefixes.prefix is not None
        for layer in clip.prefixes.prefix.cache.layers:
            places = clip.prefixes.prefix.stream.mask.shape[1]
            assert layer.keys.shape[2] == places
            assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * layer.keys.element_size()


def test_a_later_question_does_not_change_what_is_kept(clips: list[EncodedClip]) -> None:
    clip, options = clips[0], AskOptions("full", 1.0, SHORT)
    clip.ask(QUESTIONS[0], options)
    assert clip.prefixes.prefix is not None
    before = [layer.keys.clone() for layer in clip.prefixes.prefix.cache.layers]
    clip.ask(QUESTIONS[1], options)
    after = [layer.keys for layer in clip.prefixes.prefix.cache.layers]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
