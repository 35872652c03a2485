"""Answers of a batch: every row streams, and each answer is that of the question alone."""

from __future__ import annotations

from contextlib import suppress
from itertools import groupby
from typing import Any

import pytest

from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.errors import OptionError
from echoingpixels.generation.answer import Chunk
from echoingpixels.generation.decode import Text
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.report import STAGES
from tests.support import tinymodel

TOKENS = 12
QUESTIONS = ("Who rings the bell?", "Which object appears first?", "How many times does the drum play?")
OPTIONS = AskOptions("cs2", 0.3, GenerateOptions(TOKENS))


@pytest.fixture
def model() -> EchoingPixels:
    return tinymodel.model()


@pytest.fixture
def asked(model: EchoingPixels) -> list[tuple[EncodedClip, str]]:
    """Three questions about two clips of unequal length."""
    clips = [model.encode(tinymodel.clip(seconds, seed=int(seconds))) for seconds in (2.0, 4.0)]
    return list(zip((clips[0], clips[1], clips[0]), QUESTIONS, strict=True))


def texts(chunks: list[Chunk], rows: int) -> list[str]:
    """The joined pieces of each row."""
    return ["".join(chunk.text for chunk in chunks if chunk.row == row) for row in range(rows)]


def test_every_row_of_a_batch_streams_to_the_answer_of_the_question_alone(
    model: EchoingPixels, asked: list[tuple[EncodedClip, str]]
) -> None:
    chunks = list(model.stream(asked, OPTIONS))
    answers = {chunk.row: chunk.answer for chunk in chunks if chunk.answer is not None}
    alone = [clip.ask(question, OPTIONS) for clip, question in asked]
    assert list(answers) == [0, 1, 2] and len({answer.text for answer in alone}) == 3
    assert texts(chunks, 3) == [answer.text for answer in answers.values()] == [answer.text for answer in alone]
    for answer, one in zip(answers.values(), alone, strict=True):
        assert (answer.token_ids, answer.finish_reason) == (one.token_ids, one.finish_reason)
        assert (answer.kept_times, answer.report.tokens) == (one.kept_times, one.report.tokens)
        assert (answer.report.flops, answer.options) == (one.report.flops, one.options)


def _first(pieces: list[int]) -> dict[int, int]:
    """The place of each row's first piece."""
    return {row: pieces.index(row) for row in pieces}


def test_the_rows_of_a_batch_stream_interleaved(model: EchoingPixels, asked: list[tuple[EncodedClip, str]]) -> None:
    pieces = [chunk.row for chunk in model.stream(asked, OPTIONS) if chunk.text]
    first, last = ([places[row] for row in range(3)] for places in (_first(pieces), _first(pieces[::-1])))
    assert all(first[row] + last[other] < len(pieces) - 1 for row in range(3) for other in range(3))
    assert len([row for row, _ in groupby(pieces)]) > len(pieces) // 2  # the rows take turns


def test_a_row_that_stops_sends_no_further_text(
    model: EchoingPixels, asked: list[tuple[EncodedClip, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = asked[0][0].ask(QUESTIONS[0], OPTIONS).token_ids[2]
    monkeypatch.setattr(model.backbone, "stop_ids", frozenset({stop}))
    chunks = list(model.stream(asked, OPTIONS))
    answers = [chunk.answer for chunk in chunks if chunk.answer is not None]
    assert answers[0].finish_reason == "stop" and len(answers[0].token_ids) <= 3
    assert len({len(answer.token_ids) for answer in answers}) > 1
    assert texts(chunks, 3) == [answer.text for answer in answers]
    assert [chunk.answer is None for chunk in chunks] == [True] * (len(chunks) - 3) + [False] * 3


def test_the_rows_of_a_batch_share_its_seconds_equally(
    model: EchoingPixels, asked: list[tuple[EncodedClip, str]]
) -> None:
    reports = [answer.report for answer in model.answer(asked, OPTIONS)]
    for stage in ("select", "prefill", "generate"):
        assert len({getattr(report.time_s, stage) for report in reports}) == 1
    assert all(set(report.time_s.known()) == set(STAGES) for report in reports)
    for report, (clip, _) in zip(reports, asked, strict=True):
        assert report.time_s.encode == clip.time_s.encode and report.time_s.prepare > clip.time_s.prepare
    assert len({report.tokens_per_s for report in reports}) == 1


def test_more_questions_than_fit_at_once_are_answered_in_order(
    model: EchoingPixels, asked: list[tuple[EncodedClip, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [answer.text for answer in model.answer(asked, OPTIONS)]
    sizes = []
    stream = EchoingPixels.stream

    def spy(model: EchoingPixels, part: list, *given: object, **keywords: object) -> object:  # type: ignore[type-arg]
        sizes.append(len(part))
        return stream(model, part, *given, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(EchoingPixels, "stream", spy)
    monkeypatch.setattr("echoingpixels.batching.TOKENS_AT_ONCE", 1)
    assert [answer.text for answer in model.answer(asked, OPTIONS)] == expected
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize("reducer", ["cs2", "maxmin-floors"])
def test_an_answer_ends_before_the_first_stop_text_alone_and_in_a_batch(
    model: EchoingPixels, asked: list[tuple[EncodedClip, str]], reducer: str
) -> None:
    options = AskOptions(reducer, 0.3, GenerateOptions(TOKENS), evidence=False)
    whole = [clip.ask(question, options).text for clip, question in asked]
    for at, size in ((0, 1), (1, 2), (2, 3), (4, 2)):
        stop = (whole[0][at : at + size], "never generated")
        chunks = list(model.stream(asked, options, stop=stop))
        answers = [chunk.answer for chunk in chunks if chunk.answer is not None]
        for answer, text in zip(answers, whole, strict=True):
            assert answer.text == text.partition(stop[0])[0]
            assert answer.finish_reason == ("stop" if stop[0] in text else "length")
            assert (len(answer.token_ids) == TOKENS) == (answer.finish_reason == "length")
        assert texts(chunks, 3) == [answer.text for answer in answers]


def test_a_row_that_is_sent_to_the_stream_ends_and_the_others_go_on(
    model: EchoingPixels, asked: list[tuple[EncodedClip, str]]
) -> None:
    whole = [answer.text for answer in model.answer(asked, OPTIONS)]
    chunks: Any = model.stream(asked, OPTIONS)
    got = [next(chunks)]
    with suppress(StopIteration):
        while True:
            got.append(chunks.send([1] if len(got) >= 4 else None))
    answers = [chunk.answer for chunk in got if chunk.answer is not None]
    assert [answers[0].text, answers[2].text] == [whole[0], whole[2]]
    assert whole[1].startswith(answers[1].text) and 0 < len(answers[1].token_ids) <= 4
    assert texts(got, 3) == [answer.text for answer in answers]


def test_the_beginning_of_a_stop_text_is_held_back_until_it_is_clear() -> None:
    text = Text(tinymodel.backbone(), ("abc", "bd"))
    pushed = [text.push(tinymodel.tokenizer().encode(letter)[0]) for letter in "xababd"]
    assert pushed == ["x", "", "", "ab", "", "a"]
    assert text.text == "xaba" and text.reason == "stop"
    text = Text(tinymodel.backbone(), ("abc",))
    pushed = [text.push(tinymodel.tokenizer().encode(letter)[0]) for letter in "xab"]
    assert pushed == ["x", "", ""] and text.reason == "length"
    assert (text.rest(), text.text, text.rest()) == ("ab", "xab", "")


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(OptionError, match="stop text is empty"):
        GenerateOptions(stop=("",))
