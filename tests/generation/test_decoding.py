"""Faster ways to decode: each says what the plain one says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.batched import answers, ask
from echoingpixels.errors import ModelError, OptionError
from echoingpixels.generation.decode import stream_tokens
from echoingpixels.generation.prompt_lookup import guess
from echoingpixels.inputs.stream import Stream, pad
from echoingpixels.options import SIEVED, AskOptions, GenerateOptions
from echoingpixels.report import Stopwatch
from tests.support import tinymodel

TOKENS = 40
NOISE = 2e-5  # of float32 logits, whose sums are taken in another order
QUESTION = "Who rings the bell?"


def said(on: Any, stream: Stream, **options: Any) -> Tensor:
    """All tokens (B, N), -1 after a row's end."""
    return torch.stack(list(stream_tokens(on, stream, GenerateOptions(**{"max_new_tokens": TOKENS, **options}))), 1)


def steps(on: Any, stream: Stream, **options: Any) -> int:
    """How often the decoder ran after the prefill."""
    watch = Stopwatch(stream.embeds.device)
    list(stream_tokens(on, stream, GenerateOptions(**{"max_new_tokens": TOKENS, **options}), watch))
    return watch.times["generate"]


def reduced(on: QwenOmni) -> Stream:
    """Tokens that a sieve kept, of rows that differ in length."""
    whole = pad([tinymodel.stream(on, 2.0), tinymodel.stream(on, 4.0, seed=5)])
    return whole.take(tinymodel.model().select(whole, "cs2", 0.3))


STREAMS: dict[str, Callable[[QwenOmni], Stream]] = {
    "one row": tinymodel.stream,
    "a padded batch": lambda on: pad([tinymodel.stream(on, 2.0), tinymodel.text_stream(on)]),
    "kept tokens": reduced,
}


class Echo:
    """A backbone whose greedy answer is a given one, token by token, whatever it reads."""

    def __init__(self, on: QwenOmni, start: int, script: list[int]) -> None:
        self.on, self.start, self.script = on, start, script

    def __getattr__(self, name: str) -> Any:
        return getattr(self.on, name)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._say(torch.tensor([[0]]))

    def decode(self, token: Tensor, position: Tensor, mask: Tensor, cache: Any, compiled: bool = False) -> Tensor:
        seen = self.on.decode(token, position, mask, cache, compiled)
        assert seen.shape[:2] == token.shape
        return self._say(position - self.start + 1)

    def _say(self, place: Tensor) -> Tensor:
        """Logits (1, N, V) of the tokens at those places (1, N) of the answer."""
        ids = torch.tensor(self.script)[place]
        return torch.nn.functional.one_hot(ids, self.on.shape.vocab).float()


def echo(stream: Stream, script: list[int]) -> Echo:
    """Says the script after a stream."""
    return Echo(tinymodel.backbone(), int(stream.next_position), script)


# Only what the next token needs.


def test_outside_of_training_logits_are_made_for_one_place_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tinymodel.model(), []
    hook = model.backbone.thinker.lm_head.register_forward_hook(lambda _, read, out: seen.append(out.shape))
    looked = model.look(tinymodel.clip())
    try:
        for name in (*SIEVED, "full", "uniform", "fastv", "relevance"):
            looked.answer(QUESTION, AskOptions(name, 0.3, GenerateOptions(4)))
        rows = ask(looked, [AskedFor("Who?"), AskedFor(QUESTION)])
        answers(model, rows, AskOptions("cs2", 0.3, GenerateOptions(4)), Stopwatch(model.backbone.device))
    finally:
        hook.remove()
    assert len(seen) == 4 * 10 and {shape[1] for shape in seen} == {1}
    assert {shape[0] for shape in seen} == {1, 2}


class AskedFor:
    """A question."""

    def __init__(self, question: str) -> None:
        self.question = question


# A cache with room.


@pytest.mark.parametrize("name", STREAMS)
def test_a_cache_with_room_says_what_a_growing_one_says(name: str) -> None:
    on = tinymodel.backbone()
    stream = STREAMS[name](on)
    assert torch.equal(said(on, stream, static=True), said(on, stream))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", STREAMS)
@torch.no_grad()
def test_logits_from_a_cache_with_room_are_those_from_a_growing_one(name: str, kernel: str) -> None:
    on = tinymodel.backbone(kernel)
    stream, heard = STREAMS[name](on), []
    length, tokens = stream.mask.shape[1], torch.tensor([[3, 141, 59, 26]])
    for cache in (on.new_cache(), on.new_cache(length + 4), on.new_cache(length + 50)):
        logits, mask = [on.logits(on.hidden(stream, cache)[:, -1:])], stream.mask
        for i in range(4):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            token = tokens[:, i : i + 1].expand(len(mask), 1)
            logits.append(on.decode(token, stream.next_position[:, None] + i, mask, cache))
        heard.append(torch.cat(logits, 1))
    for other in heard[1:]:
        torch.testing.assert_close(other, heard[0], rtol=0, atol=NOISE)


def test_an_answer_in_pieces_is_the_same_with_every_cache() -> None:
    looked = tinymodel.model().look(tinymodel.clip())
    plain, static = (
        [chunk.text for chunk in looked.stream(QUESTION, AskOptions("cs2", 0.3, GenerateOptions(9, static=static)))]
        for static in (False, True)
    )
    assert plain == static


# A compiled step.


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compiles without a compiler: graphs are made and run as they are; their numbers of inputs, as they come."""
    made: list[int] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        made.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.delitem(vars(tinymodel.backbone()), "_compiled", raising=False)
    yield made
    vars(tinymodel.backbone()).pop("_compiled", None)
    torch.compiler.reset()


def test_a_compiled_step_is_made_once_for_one_row_and_once_for_several_and_says_what_the_plain_one_says(
    graphs: list[int],
) -> None:
    on = tinymodel.backbone()
    alone = [tinymodel.stream(on, seconds) for seconds in (1.0, 2.0, 4.0)]
    for programs, streams in ((1, alone), (2, [reduced(on), pad(alone[:2]), pad(alone)])):
        for stream in streams:
            assert torch.equal(said(on, stream, compile=True, max_new_tokens=9), said(on, stream, max_new_tokens=9))
        assert len(graphs) == programs


def test_a_step_that_cannot_be_compiled_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: Any, inputs: list[Any]) -> Any:
        raise RuntimeError("no compiler\nand much more")

    on = tinymodel.backbone()
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.delitem(vars(on), "_compiled", raising=False)
    with pytest.raises(ModelError, match=r"^The decoding step cannot be compiled: .*no compiler") as error:
        said(on, tinymodel.stream(on), compile=True)
    assert "\n" not in error.value.message and "--compile" in error.value.hint
    vars(on).pop("_compiled", None)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: compiled code would be compared with the plain step")
def test_compiled_code_says_what_the_plain_step_says() -> None:
    on = tinymodel.backbone()
    stream = tinymodel.stream(on)
    torch.compiler.reset()
    assert torch.equal(said(on, stream, compile=True), said(on, stream))
    vars(on).pop("_compiled", None)


# Guesses.


def test_a_guess_is_what_followed_last_time() -> None:
    assert guess([1, 2, 3, 4, 1, 2, 3, 9, 8, 1, 2, 3], 2) == [9, 8]
    assert guess([5, 1, 2, 7, 9, 2], 3) == [7, 9, 2]
    assert guess([1, 2, 3], 4) == [] and guess([], 4) == [] and guess([1, 1], 0) == []


def test_more_of_the_newest_tokens_found_is_a_better_guess() -> None:
    assert guess([1, 2, 3, 7, 0, 3, 5, 1, 2, 3], 1) == [7]


def test_what_repeats_is_guessed_on() -> None:
    assert guess([4, 4], 3) == [4, 4, 4]
    assert guess([1, 2, 1, 2, 1], 4) == [2, 1, 2, 1]


@pytest.mark.parametrize("lookup", [1, 2, 10])
@pytest.mark.parametrize("seed", range(4))
def test_a_lookup_says_what_is_said_without_in_fewer_steps(seed: int, lookup: int) -> None:
    on = tinymodel.backbone()
    stream = tinymodel.stream(on, 2.0, seed=seed)
    assert torch.equal(said(on, stream, lookup=lookup), said(on, stream))
    assert steps(on, stream, lookup=lookup) < steps(on, stream) == TOKENS - 1


def test_a_lookup_says_the_same_of_kept_tokens() -> None:
    model = tinymodel.model()
    stream = tinymodel.stream(model.backbone)
    kept = stream.take(model.select(stream, "cs2", 0.2))
    assert torch.equal(said(model.backbone, kept, lookup=6), said(model.backbone, kept))


def test_what_repeats_takes_few_steps() -> None:
    stream = tinymodel.text_stream(tinymodel.backbone())
    model = echo(stream, [7, 8, 9] * TOKENS)
    assert said(model, stream, lookup=9).tolist() == [([7, 8, 9] * TOKENS)[:TOKENS]]
    assert steps(model, stream, lookup=9) == 3 + 4  # 4 tokens until one comes again, then 10 a step


def test_what_the_question_says_is_found_there() -> None:
    stream = tinymodel.text_stream(tinymodel.backbone(), 30)
    assert stream.ids is not None
    script = [*stream.ids[0, 5:25].tolist(), *range(200, 230)]
    model = echo(stream, script)
    assert said(model, stream, lookup=10, max_new_tokens=20).tolist() == [script[:20]]
    assert steps(model, stream, lookup=10, max_new_tokens=20) == 2


@pytest.mark.parametrize("end", range(4, 20))
def test_a_stop_among_right_guesses_ends_the_answer(end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tinymodel.text_stream(tinymodel.backbone())
    script = ([7, 8, 9, 10, 11] * TOKENS)[:end]
    model = echo(stream, [*script, 5, *script, 5, *script, *[0] * TOKENS])  # the stop is guessed where it came before
    monkeypatch.setattr(model.on, "stop_ids", frozenset({11}))
    assert said(model, stream, lookup=10).tolist() == [[7, 8, 9, 10, 11]] if end > 4 else True
    monkeypatch.setattr(model.on, "stop_ids", frozenset({5}))
    assert said(model, stream, lookup=10).tolist() == [[*script, 5]]


@pytest.mark.parametrize("limit", range(1, 25))
def test_the_limit_is_met_exactly_within_right_guesses(limit: int) -> None:
    stream = tinymodel.text_stream(tinymodel.backbone())
    script = [7, 8, 9] * TOKENS
    assert said(echo(stream, script), stream, lookup=10, max_new_tokens=limit).tolist() == [script[:limit]]


def test_the_report_counts_the_steps() -> None:
    looked = tinymodel.model().look(tinymodel.clip())
    plain, fast = (looked.answer(QUESTION, AskOptions("full", 1.0, GenerateOptions(TOKENS, lookup=n))) for n in (0, 8))
    assert plain.token_ids == fast.token_ids
    assert fast.report.steps is not None and plain.report.steps == TOKENS - 1 > fast.report.steps


@pytest.mark.parametrize(
    "options",
    [{"lookup": -1}, {"lookup": 4, "temperature": 0.5}, {"lookup": 4, "static": True}, {"lookup": 4, "compile": True}],
)
def test_a_lookup_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        GenerateOptions(**options)


def test_a_lookup_for_several_rows_is_refused() -> None:
    on = tinymodel.backbone()
    with pytest.raises(OptionError, match="one question at a time, not 2"):
        said(on, pad([tinymodel.stream(on), tinymodel.text_stream(on)]), lookup=4)
