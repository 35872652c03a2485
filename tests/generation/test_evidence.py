"""Evidence times: moments of the clip, after the answer, or the reason for none."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from echoingpixels.generation import answer as answer_module
from echoingpixels.generation import evidence as module
from echoingpixels.generation.evidence import MOST, Moment, Timing, moments
from echoingpixels.inputs.positions import Span
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from tests.support import tinymodel
from tests.support.explained import still

QUESTION = "Who rings the bell?"
SHORT = GenerateOptions(4)
TOKENS = st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 19.9), st.booleans()), min_size=1, max_size=40)


@pytest.fixture
def model() -> EchoingPixels:
    return tinymodel.model(form="extractive")


def found(tokens: list[tuple[float, float, bool]], clip: Timing, times: float = 1.0) -> tuple[Moment, ...]:
    """The moments of tokens (effect, time, whether it is video), with all effects `times` as large."""
    effect, time, video = (np.array(column, dtype=np.float64) for column in zip(*tokens, strict=True))
    return moments(times * effect, time, video, clip)


@given(TOKENS, st.sampled_from([0.5, 1.0, 10.0]))
def test_moments_are_disjoint_stretches_of_the_clip_that_share_its_effect(
    tokens: list[tuple[float, float, bool]], step: float
) -> None:
    tokens = [(effect if effect > 1e-300 else 0.0, time, video) for effect, time, video in tokens]  # no denormal ones
    made = found(tokens, Timing(20.0, step))
    assert len(made) <= MOST and bool(made) == any(effect > 0 for effect, *_ in tokens)
    assert all(0 <= one.start < one.end <= 20 for one in made)
    assert sum(one.share for one in made) <= 1.01 and all(one.share > 0 for one in made)
    ordered = sorted(made, key=lambda one: one.start)
    assert all(earlier.end <= later.start for earlier, later in pairwise(ordered))


@given(TOKENS)
def test_only_the_proportions_of_the_effects_matter(tokens: list[tuple[float, float, bool]]) -> None:
    tokens = [(round(effect, 2), time, video) for effect, time, video in tokens]
    assert found(tokens, Timing(20.0, 1.0)) == found(tokens, Timing(20.0, 1.0), times=1024.0)


@given(st.floats(0, 19), st.booleans(), st.sampled_from([0.5, 1.0, 4.0]))
def test_a_single_token_is_in_its_moment(time: float, video: bool, step: float) -> None:
    (moment,) = found([(1.0, time, video)], Timing(20.0, step))
    assert moment.start <= time + 0.05 and moment.end >= min(20.0, time + (step if video else 0.0)) - 0.3 * step
    assert moment.share > 0.5


def test_the_highest_peak_comes_first_and_small_ones_are_left_out() -> None:
    beeps = [(1.0, 2.0, False), (3.0, 8.0, False), (0.2, 14.0, False)]
    first, second = found(beeps, Timing(20.0))
    assert first.start < 8 < first.end < first.start + 2 and second.start < 2 < second.end
    assert first.share == pytest.approx(3 * second.share, rel=0.05)


def test_what_lowers_the_probability_of_the_answer_is_no_evidence() -> None:
    (moment,) = found([(-5.0, 2.0, False), (1.0, 8.0, False)], Timing(20.0))
    assert moment.start < 8 < moment.end
    assert found([(-1.0, 2.0, True)], Timing(20.0, 1.0)) == ()


def test_a_film_sampled_sparsely_has_moments_of_its_steps() -> None:
    (moment,) = found([(1.0, 1800.0, True), (0.01, 200.0, False)], Timing(3600.0, 60.0))
    assert 1770 < moment.start < 1800 + 30 < moment.end < 1890


def test_the_extent_of_a_clip_has_the_length_of_its_steps() -> None:
    assert Timing.of(Span(times=(0.0, 2.0, 4.0)), 6.0) == Timing(6.0, 2.0)
    assert Timing.of(Span(times=(0.0,)), 3.0) == Timing(3.0, 3.0)
    assert Timing.of(Span(audio_tokens=50), 2.0) == Timing(2.0, 0.0)


def test_it_is_found_after_the_last_token_and_changes_no_answer(
    model: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, order = model.encode(tinymodel.clip(4.0)), list[str]()
    find = answer_module.evidence
    monkeypatch.setattr(answer_module, "evidence", lambda *given: order.append("evidence") or find(*given))
    for chunk in clip.stream(QUESTION, AskOptions(keep=0.3, generate=SHORT)):
        order.append("text" if chunk.answer is None else "answer")
        answer = chunk.answer
    assert answer is not None and order == [*["text"] * (len(order) - 2), "evidence", "answer"]
    without = clip.ask(QUESTION, keep=0.3, generate=SHORT, evidence=False)
    assert (answer.text, answer.token_ids) == (without.text, without.token_ids)
    assert answer.evidence.moments and answer.evidence.reason is None
    assert without.evidence.moments == () and without.evidence.reason == module.OFF
    spent = answer.report.time_s
    assert spent.evidence is not None and spent.evidence > 0 and without.report.time_s.evidence is None
    assert spent.total == pytest.approx(sum(spent.known().values()) - (spent.load or 0.0) - spent.evidence)


def test_a_row_of_a_batch_has_the_evidence_of_the_question_alone(model: EchoingPixels) -> None:
    clips = [model.encode(tinymodel.clip(seconds, seed=int(seconds))) for seconds in (2.0, 4.0)]
    asked = [(clips[0], QUESTION), (clips[1], "Which object appears first?"), (clips[0], "How many?")]
    options = AskOptions(keep=0.4, generate=SHORT)
    together = [answer.evidence for answer in model.answer(asked, options)]
    alone = [clip.ask(question, options).evidence for clip, question in asked]
    assert together == alone and all(one.moments for one in alone) and alone[0] != alone[2]


def test_a_stream_alone_has_the_steps_of_its_tokens(model: EchoingPixels) -> None:
    clip = model.encode(tinymodel.clip(4.0))
    staged = model.generate(model.embed(clip.prompt(QUESTION)), SHORT)
    assert staged.evidence == clip.ask(QUESTION, reducer="full", generate=SHORT).evidence


def test_the_fused_form_has_none_and_states_why() -> None:
    answer = tinymodel.model(form="fused").ask(tinymodel.clip(), QUESTION, reducer="cs2", keep=0.3, generate=SHORT)
    assert answer.evidence.as_dict() == {"evidence": None, "no_evidence": module.FUSED}


def test_an_image_and_a_text_have_none(model: EchoingPixels) -> None:
    assert model.ask(still(tinymodel.clip()), QUESTION, generate=SHORT).evidence.reason == module.TIMELESS
    text = tinymodel.text_stream(tinymodel.backbone())
    assert model.generate(text, SHORT).evidence.reason == module.TIMELESS


def test_an_empty_answer_has_none(model: EchoingPixels, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = model.encode(tinymodel.clip())
    first = clip.ask(QUESTION, generate=SHORT).token_ids[0]
    monkeypatch.setattr(model.backbone, "stop_ids", frozenset({first}))
    assert clip.ask(QUESTION, generate=SHORT).evidence.reason == module.EMPTY


def test_without_gradients_the_answer_is_complete(model: EchoingPixels) -> None:
    with torch.inference_mode():
        answer = model.ask(tinymodel.clip(), QUESTION, keep=0.3, generate=SHORT)
    assert answer.text and answer.evidence.reason == module.NO_GRADIENT


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_without_memory_the_answer_is_complete(
    error: Exception, model: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(model.backbone, "contributions", fail)
    answer = model.ask(tinymodel.clip(), QUESTION, keep=0.3, generate=SHORT)
    assert answer.text and answer.evidence.reason == module.NO_MEMORY
