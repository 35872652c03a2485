"""Tokens dropped inside the decoder: logits, caches and reports, against a decoder that only hides them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.backbones.sizes import llm_flops
from echoingpixels.errors import OptionError
from echoingpixels.generation import decode
from echoingpixels.inputs.descent import Drop
from echoingpixels.inputs.token_stream import Selection, TokenStream, pad
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.reducers.in_decoder import MostAttended, MostAttendedByWindow
from echoingpixels.report import TokenCounts
from tests.support import tinymodel

NOISE = 2e-5  # of float32 logits, whose sums are taken in another order
NEXT = (3, 141, 59, 26)  # tokens to decode, whatever the logits are
DROPS = {
    "one": (Drop(1, MostAttended(0.3)),),
    "two": (Drop(1, MostAttended(0.6)), Drop(3, MostAttendedByWindow(0.4))),
    "next to each other": (Drop(2, MostAttendedByWindow(0.7)), Drop(3, MostAttendedByWindow(0.2))),
}
QUESTION = "Who rings the bell?"


def dropping(stream: TokenStream, drops: tuple[Drop, ...]) -> TokenStream:
    """The stream, all of whose tokens enter the decoder, and some leave it inside."""
    return stream.take(Selection(stream.mask, drops=drops))


@dataclass(frozen=True)
class Hidden:
    """The logits (1 + N, V) of a row's last place and N tokens after it, and the layers that read each token."""

    logits: Tensor
    read: Tensor  # (L,)


@torch.no_grad()
def hidden_only(stream: TokenStream, tokens: Sequence[int] = NEXT) -> Hidden:
    """One row, slowly: every layer runs over all tokens, and a mask hides those that were dropped before it.

    The tokens that were dropped read the others; nothing reads them from there on.
    """
    on = tinymodel.backbone("eager")  # which returns its attention weights
    length, n = stream.mask.shape[1], len(tokens)
    hidden = torch.cat([stream.embeds, on.text.embed_tokens(torch.tensor([tokens]))], 1)
    after = (stream.next_position[:, None] + torch.arange(n)).expand(3, 1, n)
    rotary = on.text.rotary_emb(hidden, torch.cat([stream.positions, after], 2))
    causal, alive = torch.ones(length + n, length + n).tril().bool(), torch.ones(length, dtype=torch.bool)
    read = torch.zeros(length, dtype=torch.long)
    for i, layer in enumerate(on.text.layers):
        visible = causal & torch.cat([alive, torch.ones(n, dtype=torch.bool)])
        visible |= torch.eye(length + n, dtype=torch.bool)  # a dropped token reads something
        mask = torch.zeros(length + n, length + n).masked_fill(~visible, -torch.inf)[None, None]
        weights: list[Tensor] = []
        hook = layer.self_attn.register_forward_hook(lambda _, read, out, found=weights: found.append(out[1]))
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        hook.remove()
        read += alive
        for drop in stream.drops:
            if drop.layer == i + 1:
                left = stream.take(Selection(alive[None]))
                attention = weights[0][:, :, length - 1, :length].mean(1)[:, alive]
                alive[alive.clone()] = drop.choose(left, attention).keep[0]
    return Hidden(on.logits(on.text.norm(hidden))[0, length - 1 :], read)


@torch.no_grad()
def decoded(on: QwenOmni, stream: TokenStream) -> tuple[Tensor, decode.Prefilled]:
    """Logits (B, 1 + N, V) of the last place and of the tokens in NEXT, one cached step after the other."""
    start = decode.prefill(on, stream, GenerateOptions())
    logits, mask = [on.logits(start.hidden)], start.mask
    for i, token in enumerate(NEXT):
        given = torch.full((len(stream.mask), 1), token)
        mask = None if mask is None else torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        logits.append(on.decode(given, stream.next_position[:, None] + i, mask, start.cache))
    return torch.cat(logits, 1), start


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("drops", DROPS.values(), ids=DROPS)
def test_dropped_tokens_are_as_if_hidden_from_that_layer_on_and_read_in_those_before(
    drops: tuple[Drop, ...], kernel: str
) -> None:
    stream = dropping(tinymodel.stream(tinymodel.backbone(), 4.0), drops)
    wanted = hidden_only(stream)
    logits, start = decoded(tinymodel.backbone(kernel), stream)
    assert start.read is not None and torch.equal(start.read[0], wanted.read)
    assert set(wanted.read.tolist()) == {*(drop.layer for drop in drops), 4}
    torch.testing.assert_close(logits[0], wanted.logits, rtol=0, atol=NOISE)


@pytest.mark.parametrize("masked", [decode.MASKED, 1], ids=["padded", "by equal length"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("drops", DROPS.values(), ids=DROPS)
def test_each_row_of_a_padded_batch_is_as_if_alone(
    drops: tuple[Drop, ...], kernel: str, masked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MASKED", masked)
    on = tinymodel.backbone(kernel)
    rows = [
        *(tinymodel.stream(on, 4.0, seed=seed) for seed in (0, 3)),
        tinymodel.stream(on, 2.0, sound=False),
        tinymodel.stream(on, 5.0, before=2),
        tinymodel.text_stream(on),
    ]
    logits, start = decoded(on, dropping(pad(rows), drops))
    assert start.read is not None
    for row, found, read in zip(rows, logits, start.read, strict=True):
        wanted = hidden_only(dropping(row, drops))
        assert torch.equal(read[len(read) - len(wanted.read) :], wanted.read)
        assert not bool(read[: len(read) - len(wanted.read)].any())
        torch.testing.assert_close(found, wanted.logits, rtol=0, atol=NOISE)


def test_every_layer_keeps_the_entries_of_the_tokens_that_it_read_and_no_others() -> None:
    on, drops = tinymodel.backbone(), DROPS["two"]
    stream = dropping(pad([tinymodel.stream(on, 2.0), tinymodel.stream(on, 4.0)]), drops)
    start = decode.prefill(on, stream, GenerateOptions())
    assert start.read is not None
    lengths = [layer.keys.shape[2] for layer in start.cache.cache.layers]
    assert lengths == [int((start.read > i).sum(1).max()) for i in range(4)]
    assert lengths[0] > lengths[1] == lengths[2] > lengths[3]


@pytest.mark.parametrize("reducer", ["seats", "fastv"])
def test_all_tokens_are_the_run_of_full(reducer: str) -> None:
    clip = tinymodel.model().encode(tinymodel.clip())
    full = clip.ask(QUESTION, AskOptions("full", 1.0, GenerateOptions(6)))
    made = clip.ask(QUESTION, AskOptions(reducer, 1.0, GenerateOptions(6)))
    assert made.token_ids == full.token_ids and made.kept_times == full.kept_times
    assert (made.report.tokens, made.report.last_layer) == (full.report.tokens, full.report.first_layer)
    assert made.report.flops.full == full.report.flops.full


@pytest.mark.parametrize("reducer", ["seats", "fastv"])
def test_a_batch_of_questions_has_the_answers_of_each_alone(reducer: str) -> None:
    model = tinymodel.model()
    clips = [model.encode(tinymodel.clip(seconds, seed=seed)) for seed, seconds in enumerate((4.0, 6.0, 2.0))]
    asked = [(clip, question) for clip in clips for question in ("Who?", QUESTION)]
    options = AskOptions(reducer, 0.4, GenerateOptions(6))
    for (clip, question), answer in zip(asked, model.answer(asked, options), strict=True):
        alone = clip.ask(question, options)
        assert answer.token_ids == alone.token_ids and answer.kept_times == alone.kept_times
        assert (answer.report.tokens, answer.report.last_layer) == (alone.report.tokens, alone.report.last_layer)
        assert answer.report.flops == alone.report.flops


@pytest.mark.parametrize("reducer", ["seats", "fastv"])
def test_a_report_has_the_mean_over_the_layers_and_the_operations_of_each(reducer: str) -> None:
    model = tinymodel.model()
    clip = model.encode(tinymodel.clip(6.0))
    answer = clip.ask(QUESTION, AskOptions(reducer, 0.5, GenerateOptions(5)))
    report, prompt = answer.report, clip.prompt(QUESTION)
    stream = model.embed(prompt)
    kept = stream.take(model.select(stream, reducer, 0.5))
    read = decode.prefill(model.backbone, kept, GenerateOptions()).read
    assert read is not None and report.tokens.kept_ratio == pytest.approx(0.5, abs=0.01)
    for name, kind in (("video", kept.vision), ("audio", kept.pool & ~kept.vision)):
        assert getattr(report.tokens, name).after == round(float(read[kind].sum()) / 4)
        assert len(getattr(answer.kept_times, name)) == int((read[kind] == 4).sum()) == getattr(report.last_layer, name)
    assert report.first_layer == kept.row_counts()[0]
    each = [int((read > layer).sum()) for layer in range(4)]
    shape, spent, cost = model.backbone.shape, clip.encoder_flops, prompt.cost(answer.options)
    assert report.flops.reduced == pytest.approx(spent + cost.selection_flops + _flops(shape, each, 5))
    assert report.flops.full == pytest.approx(spent + _flops(shape, [stream.mask.shape[1]] * 4, 5))


def _flops(shape: Any, each: list[int], generated: int) -> float:
    """Layer by layer."""
    head = llm_flops(replace(shape, layers=0), 0, generated)
    return head + sum(llm_flops(replace(shape, layers=1), tokens, generated) - head for tokens in each)


def test_the_mean_over_layers_is_rounded() -> None:
    counts = [TokenCounts(video=10, text=4), TokenCounts(video=3, text=4), TokenCounts(video=3, text=4)]
    assert TokenCounts.mean(counts) == TokenCounts(video=5, text=4)


@pytest.mark.parametrize("way", ["static", "compile"])
def test_a_cache_of_fixed_length_is_refused_before_anything_runs(way: str) -> None:
    with pytest.raises(OptionError, match="KV cache that grows") as error:
        AskOptions("fastv", 0.3, GenerateOptions(**{way: True}))
    assert "static" in error.value.hint
    on = tinymodel.backbone()
    with pytest.raises(OptionError, match="KV cache that grows"):
        decode.prefill(on, dropping(tinymodel.stream(on), DROPS["one"]), GenerateOptions(**{way: True}))


def test_streams_of_different_drops_do_not_share_a_batch() -> None:
    stream = tinymodel.stream(tinymodel.backbone())
    one, other = dropping(stream, DROPS["one"]), dropping(stream, DROPS["two"])
    assert pad([one, dropping(stream, (Drop(1, MostAttended(0.3)),))]).drops == DROPS["one"]
    with pytest.raises(ValueError, match="different layers"):
        pad([one, other])


def test_a_model_answers_from_a_stream_that_drops() -> None:
    model = EchoingPixels(tinymodel.backbone())
    stream = tinymodel.asked(model, tinymodel.clip(), QUESTION)
    kept = stream.take(model.select(stream, "fastv", 0.4))
    answer = model.generate(kept, max_new_tokens=4)
    whole = model.encode(tinymodel.clip()).ask(QUESTION, reducer="fastv", keep=0.4, max_new_tokens=4)
    assert answer.token_ids == whole.token_ids and answer.report.tokens == whole.report.tokens
