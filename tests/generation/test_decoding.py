"""Faster ways to decode: each gives the tokens of the plain way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from echoingpixels.backbones.compiled import compiled
from echoingpixels.backbones.fixed_cache import LEAST, bucket, places
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.errors import ModelError
from echoingpixels.generation.decode import stream_tokens
from echoingpixels.inputs.token_stream import TokenStream, pad
from echoingpixels.options import AskOptions, GenerateOptions
from tests.support import tinymodel
from tools.quotas import REDUCERS as SHARES

TOKENS = 40
NOISE = 2e-5  # of float32 logits, whose sums are taken in another order
QUESTION = "Who rings the bell?"


def decoded(on: Any, stream: TokenStream, **options: Any) -> Tensor:
    """All tokens (B, N), -1 after a row's end."""
    return torch.stack(list(stream_tokens(on, stream, GenerateOptions(**{"max_new_tokens": TOKENS, **options}))), 1)


def reduced(on: QwenOmni) -> TokenStream:
    """Tokens that a sieve kept, of rows that differ in length."""
    whole = pad([tinymodel.stream(on, 2.0), tinymodel.stream(on, 4.0, seed=5)])
    return whole.take(tinymodel.model().select(whole, "cs2", 0.3))


STREAMS: dict[str, Callable[[QwenOmni], TokenStream]] = {
    "one row": tinymodel.stream,
    "a padded batch": lambda on: pad([tinymodel.stream(on, 2.0), tinymodel.text_stream(on)]),
    "kept tokens": reduced,
}


# Logits of the next token alone.


def test_outside_of_training_logits_are_made_for_one_place_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = tinymodel.model(), []
    hook = model.backbone.thinker.lm_head.register_forward_hook(lambda _, read, out: shapes.append(out.shape))
    clip = model.encode(tinymodel.clip())
    try:
        names = ("cs2", *SHARES, "full", "uniform", "maxmin-floors", "relevance")
        for name in names:
            clip.ask(QUESTION, AskOptions(name, 0.3, GenerateOptions(4), evidence=False))
        model.answer([(clip, "Who?"), (clip, QUESTION)], AskOptions("cs2", 0.3, GenerateOptions(4), evidence=False))
    finally:
        hook.remove()
    assert len(shapes) == 4 * (len(names) + 1) and {shape[1] for shape in shapes} == {1}
    assert {shape[0] for shape in shapes} == {1, 2}


# A static cache.


@pytest.mark.parametrize("name", STREAMS)
def test_a_static_cache_gives_the_tokens_of_a_growing_one(name: str) -> None:
    on = tinymodel.backbone()
    stream = STREAMS[name](on)
    assert torch.equal(decoded(on, stream, static=True), decoded(on, stream))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", STREAMS)
@torch.no_grad()
def test_logits_from_a_static_cache_equal_those_from_a_growing_one(name: str, kernel: str) -> None:
    on = tinymodel.backbone(kernel)
    stream, found = STREAMS[name](on), []
    length, tokens = stream.mask.shape[1], torch.tensor([[3, 141, 59, 26]])
    for tokens_in_all in (None, length + 4, length + 300):
        cache, mask = on.new_cache(), stream.mask
        logits = [on.logits(on.hidden(stream, cache)[:, -1:])]
        cache = cache if tokens_in_all is None else on.fixed_caches.filled(cache, tokens_in_all)
        for i in range(4):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            token = tokens[:, i : i + 1].expand(len(mask), 1)
            logits.append(on.decode(token, stream.next_position[:, None] + i, mask, cache))
        found.append(torch.cat(logits, 1))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=NOISE)


def test_an_answer_in_pieces_is_the_same_with_every_cache() -> None:
    clip = tinymodel.model().encode(tinymodel.clip())
    plain, static = (
        [chunk.text for chunk in clip.stream(QUESTION, AskOptions("cs2", 0.3, GenerateOptions(9, static=static)))]
        for static in (False, True)
    )
    assert plain == static


# A compiled step.


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Compiles without a compiler: graphs are made and run as they are; their numbers of inputs, as they come."""
    made: list[int] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        made.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(tinymodel.backbone().fixed_caches, "_program", None)
    yield made
    torch.compiler.reset()


def test_a_step_is_compiled_once_for_each_size_of_the_cache_and_gives_the_plain_tokens(graphs: list[int]) -> None:
    on = tinymodel.backbone()
    alone = [tinymodel.stream(on, seconds) for seconds in (1.0, 2.0, 4.0)]
    streams = [*alone, reduced(on), pad(alone[:2]), pad(alone), pad([*alone, alone[0]]), alone[1]]
    sizes = set()
    for stream in streams:
        sizes.add((bucket(len(stream.mask)), places(stream.mask.shape[1] + 9)))
        assert torch.equal(decoded(on, stream, compile=True, max_new_tokens=9), decoded(on, stream, max_new_tokens=9))
        assert len(graphs) == len(sizes)
    assert len(sizes) < len(streams)


def test_answers_of_one_size_share_tensors_and_never_recompile(graphs: list[int]) -> None:
    clip = tinymodel.model().encode(tinymodel.clip())
    options = AskOptions("cs2", 0.3, GenerateOptions(5, compile=True))
    caches = clip.model.backbone.fixed_caches
    clip.ask("Who?", options)
    first = caches._free
    with torch.compiler.set_stance("fail_on_recompile"):
        answers = [clip.ask(question, options) for question in ("Who?", QUESTION, "Which object appears first?")]
    assert len(graphs) == 1 and first is not None and caches._free is first
    plain = replace(options, generate=GenerateOptions(5))
    for question, answer in zip(("Who?", QUESTION, "Which object appears first?"), answers, strict=True):
        expected = clip.ask(question, plain)
        assert (answer.token_ids, answer.evidence) == (expected.token_ids, expected.evidence)


def test_answers_that_are_generated_in_turns_have_tensors_of_their_own() -> None:
    clip = tinymodel.model().encode(tinymodel.clip())
    options = AskOptions("cs2", 0.3, GenerateOptions(9, static=True))
    questions = ("Who?", QUESTION)
    alone = [clip.ask(question, options).text for question in questions]
    texts = ["", ""]
    for pieces in zip_longest(*(clip.stream(question, options) for question in questions)):
        for i, piece in enumerate(pieces):
            texts[i] += "" if piece is None else piece.text
    assert texts == alone


def test_on_cuda_a_step_is_recorded_as_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda step, **options: asked.update(options))
    compiled(lambda *_: torch.empty(0), torch.device("cuda:0"))
    assert asked["mode"] == "reduce-overhead" and asked["fullgraph"] and asked["dynamic"] is False
    compiled(lambda *_: torch.empty(0), torch.device("cpu"))
    assert asked["mode"] is None


@given(st.integers(1, 40_000))
def test_a_cache_has_room_for_all_tokens_and_at_most_twice_as_many_places(tokens: int) -> None:
    assert tokens <= places(tokens) <= max(LEAST, 2 * tokens - 1)
    assert bucket(bucket(tokens)) == bucket(tokens)


def test_a_step_that_cannot_be_compiled_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: Any, inputs: list[Any]) -> Any:
        raise RuntimeError("no compiler\nand much more")

    on = tinymodel.backbone()
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(on.fixed_caches, "_program", None)
    with pytest.raises(ModelError, match=r"^The decoding step cannot be compiled: .*no compiler") as error:
        decoded(on, tinymodel.stream(on), compile=True)
    assert "\n" not in error.value.message and "--compile" in error.value.hint


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: compiled code would be compared with the plain step")
def test_compiled_code_gives_the_tokens_of_the_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    on = tinymodel.backbone()
    monkeypatch.setattr(on.fixed_caches, "_program", None)
    stream = tinymodel.stream(on)
    torch.compiler.reset()
    for _ in range(2):  # the second time in the same tensors
        assert torch.equal(decoded(on, stream, compile=True), decoded(on, stream))
