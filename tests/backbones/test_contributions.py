"""The effect of each token's values on an answer, against a gradient through the whole KV cache at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from echoingpixels.backbones import contributions as module
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.generation.decode import Prefilled, stream_tokens
from echoingpixels.inputs.token_stream import TokenStream, pad
from echoingpixels.options import GenerateOptions
from tests.support import tinymodel

TOKENS = 4


@pytest.fixture
def backbone() -> QwenOmni:
    return tinymodel.backbone()


def decoded(backbone: QwenOmni, stream: TokenStream, **options: Any) -> tuple[Any, list[list[int]]]:
    """The KV cache after an answer of TOKENS tokens, and the ids of each row."""
    started: list[Prefilled] = []
    steps = list(stream_tokens(backbone, stream, GenerateOptions(TOKENS, **options), None, started.append))
    return started[0].cache, torch.stack(steps, 1).tolist()


def slow(backbone: QwenOmni, stream: TokenStream, ids: list[int]) -> Tensor:
    """The same for one row (L,), from one graph over all layers: the values before the question are its leaves."""
    end, length = int(stream.pool[0].nonzero().max()) + 1, stream.mask.shape[1]
    cache = backbone.new_cache()
    with torch.no_grad():
        backbone.hidden(stream_part(stream, 0, end), cache)
    values = [layer.values.requires_grad_() for layer in cache.layers]
    for layer, leaf in zip(cache.layers, values, strict=True):
        layer.values = leaf
    answer = backbone.text.embed_tokens(torch.tensor([ids]))
    following = (stream.next_position[:, None] + torch.arange(len(ids))).expand(3, 1, -1)
    whole = replace(
        stream,
        embeds=torch.cat([stream.embeds, answer], 1),
        positions=torch.cat([stream.positions, following], 2),
        mask=torch.ones(1, length + len(ids), dtype=torch.bool),
    )
    hidden = backbone.hidden(whole, cache)[0, length - end - 1 : -1]
    chances = backbone.logits(hidden).softmax(-1).gather(1, torch.tensor(ids)[:, None])
    effects = torch.autograd.grad(torch.logit(chances.double()).sum(), values)
    found = torch.zeros(length)
    found[:end] = sum((effect * value).sum((0, 1, 3)) for effect, value in zip(effects, values, strict=True)).detach()
    return found


def stream_part(stream: TokenStream, first: int, last: int) -> TokenStream:
    """Places of a stream of one row."""
    part = slice(first, last)
    return replace(
        stream, embeds=stream.embeds[:, part], positions=stream.positions[:, :, part], mask=stream.mask[:, part]
    )


@pytest.mark.parametrize("options", [{}, {"static": True}], ids=["growing", "static"])
def test_layer_by_layer_it_is_the_gradient_through_all_layers(backbone: QwenOmni, options: dict[str, Any]) -> None:
    stream = tinymodel.stream(backbone, 4.0)
    cache, answers = decoded(backbone, stream, **options)
    found = backbone.contributions(stream, cache, answers)
    assert found is not None
    expected = slow(backbone, stream, answers[0])
    assert expected[stream.pool[0]].abs().min() > 0
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_a_row_of_a_batch_is_as_alone(backbone: QwenOmni) -> None:
    rows = [
        tinymodel.stream(backbone, seconds, after=after, seed=int(seconds))
        for seconds, after in ((2.0, 3), (4.0, 11), (3.0, 7))
    ]
    rows.append(tinymodel.text_stream(backbone))
    stream = pad(rows)
    cache, answers = decoded(backbone, stream)
    answers[1] = answers[1][:2]  # a shorter answer
    found = backbone.contributions(stream, cache, answers)
    assert found is not None
    for row, alone, ids in zip(found, rows[:3], answers, strict=False):
        expected = slow(backbone, alone, ids)
        length = alone.mask.shape[1]
        torch.testing.assert_close(row[-length:], expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
        assert not row[:-length].any()
    assert not found[3].any()


def test_long_answers_take_the_vocabulary_a_part_at_a_time(backbone: QwenOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tinymodel.stream(backbone)
    cache, answers = decoded(backbone, stream)
    whole = backbone.contributions(stream, cache, answers)
    sizes: list[int] = []
    logits = backbone.logits
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 1)
    monkeypatch.setattr(backbone, "logits", lambda hidden: sizes.append(len(hidden)) or logits(hidden))
    torch.testing.assert_close(backbone.contributions(stream, cache, answers), whole)
    assert set(sizes) == {1}
