"""Attention of the question's words, in blocks: as the decoder reports it, less what all words share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from echoingpixels.backbones import attention
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.positions import AUDIO, VIDEO
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.inputs.prompt import prepare_prompt
from echoingpixels.inputs.token_stream import TokenStream, budget, pad
from echoingpixels.model import EchoingPixels
from echoingpixels.reducer_names import UNSIEVED
from echoingpixels.reducers.attention import LAYERS, SINK, above_mean, relevant
from echoingpixels.reducers.budget import filled
from echoingpixels.reducers.registry import reducer_named
from tests.support import tinymodel

NOISE = 2e-5
QUESTION = "Which bell rings after the second dog has barked?"  # 49 tokens of the random model: two blocks
FAINT = 1 / 64  # a power of two, so that it scales without rounding

Plant = Callable[[TokenStream], Tensor]
"""A head's attention (L,) to a stream of one row, the same for all words."""


@pytest.fixture(params=["sdpa", "eager"])
def on(request: pytest.FixtureRequest) -> QwenOmni:
    """The random thinker under each attention kernel."""
    return tinymodel.backbone(request.param)


def asking(on: QwenOmni, question: str = QUESTION, seconds: float = 4.0, **changed: Any) -> TokenStream:
    """The stream of a prompt with its question's words known."""
    media = prepare_media(tinymodel.clip(seconds), on.resolution)
    inputs = prepare_prompt(media, question, on.tokenizer, on.layout, **changed)
    return tinymodel.embed(on, inputs)


def weights_of(on: QwenOmni, stream: TokenStream, tokens: Tensor, layers: int = LAYERS) -> list[Tensor]:
    """All weights of each layer, (B, H, K, L)."""
    return [torch.cat(list(blocks), 2) for blocks in on.attention_of(stream, tokens, layers)]


@torch.no_grad()
def reported(stream: TokenStream) -> tuple[Tensor, ...]:
    """All attention weights (B, H, L, L) of each layer, as the decoder itself reports them."""
    output = tinymodel.backbone("eager").text(
        inputs_embeds=stream.embeds,
        position_ids=stream.positions,
        attention_mask=stream.mask,
        output_attentions=True,
    )
    attentions: tuple[Tensor, ...] = output.attentions
    return attentions


@pytest.mark.parametrize("layers", [1, LAYERS, 4])
@torch.no_grad()
def test_attention_of_the_words_is_what_the_whole_decoder_reports(on: QwenOmni, layers: int) -> None:
    together = pad([asking(on), asking(on, "Who?", 2.0), tinymodel.text_stream(on)])
    found = weights_of(on, together, together.question_tokens, layers)
    assert len(found) == layers
    longest = int(together.question_tokens.sum(1).max())
    for weights, wanted in zip(found, reported(together), strict=False):
        assert weights.dtype == torch.float32 and weights.shape[2] == longest == len(QUESTION)
        for row, words in enumerate(together.question_tokens):
            n = int(words.sum())
            torch.testing.assert_close(weights[row, :, longest - n :], wanted[row, :, words], rtol=0, atol=NOISE)
            assert not bool(weights[row, :, : longest - n].any())
        assert not bool(weights[(~together.mask)[:, None, None].expand_as(weights)].any())


@pytest.mark.parametrize("block", [1, 7, 32, 1000])
@torch.no_grad()
def test_blocks_of_any_size_give_the_same_scores(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    on = tinymodel.backbone()
    together = pad([asking(on), asking(on, "Who?", 2.0)])
    wanted = relevant(on, together)
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", block)
    sizes = [
        weights.shape[2] for blocks in on.attention_of(together, together.question_tokens, 1) for weights in blocks
    ]
    assert max(sizes) == min(block, len(QUESTION)) and sum(sizes) == len(QUESTION)
    torch.testing.assert_close(relevant(on, together), wanted, rtol=0, atol=1e-6)


@torch.no_grad()
def test_relevance_is_the_most_that_a_word_attends_above_the_mean_word_unless_a_token_repeats(on: QwenOmni) -> None:
    stream = asking(on)
    pool, model = stream.pool[0], EchoingPixels(on)
    of_words = torch.stack(
        [one[0][:, stream.question_tokens[0]] for one in reported(stream)[:LAYERS]]
    )  # (layers, H, K, L)
    found = (of_words - of_words.mean(2, keepdim=True)).amax((0, 1, 2))
    found[of_words.mean(2).amax((0, 1)) >= SINK] = 0
    selection = model.select(stream, "relevance", 0.2)
    assert selection.scores is not None and selection.fused is None
    fresh = model.select(stream, "repeats", 1.0).scores
    assert fresh is not None
    wanted = (found * fresh[0].nan_to_num(posinf=1.0).sqrt())[pool]
    torch.testing.assert_close(selection.scores[0][pool], wanted, rtol=0, atol=NOISE)
    still = replace(stream, embeds=torch.where(stream.pool[..., None], torch.ones_like(stream.embeds), stream.embeds))
    kept = model.select(still, "relevance", float((fresh[0].isinf() & pool).sum() / pool.sum()) - 1e-6).keep
    assert torch.equal(kept[0] & pool, fresh[0].isinf() & pool)  # of what never changes, the first step


@torch.no_grad()
def test_one_word_alone_keeps_its_attention_as_it_is() -> None:
    weights = torch.rand(2, 3, 4, 9)
    weights[1, :, 1:] = 0.0  # the second row has one word
    found, _ = above_mean([weights[:, :, :3], weights[:, :, 3:]], torch.tensor([4, 1]))
    torch.testing.assert_close(found[0], weights[0].amax(1) - weights[0].mean(1))
    assert torch.equal(found[1], weights[1, :, 0])
    on = tinymodel.backbone()
    assert bool((relevant(on, asking(on, "?"))[asking(on, "?").pool] > 0).any())


class Planted:
    """A backbone whose every layer has more heads, which attend alike whatever the word; its own heads are FAINT."""

    def __init__(self, on: QwenOmni, plants: list[Plant]) -> None:
        self._on, self._plants = on, plants

    def __getattr__(self, name: str) -> Any:
        return getattr(self._on, name)

    def attention_of(self, stream: TokenStream, tokens: Tensor, layers: int) -> Iterator[Iterator[Tensor]]:
        planted = [plant(stream) for plant in self._plants]
        for blocks in self._on.attention_of(stream, tokens, layers):
            yield (torch.cat([FAINT * part, *(head.expand_as(part[:, :1]) for head in planted)], 1) for part in blocks)


def recency(stream: TokenStream) -> Tensor:
    """A head that attends to the nearest tokens: e-fold over 50 tokens."""
    return (torch.arange(stream.mask.shape[1]) / 50).softmax(0)


def sinks(stream: TokenStream) -> Tensor:
    """A head that attends to 4 % of the pool, whatever is asked."""
    drawn = torch.rand(stream.mask.shape[1], generator=torch.Generator().manual_seed(3))
    chosen = (drawn < 0.04) & stream.pool[0]
    return chosen / chosen.sum()


def highest(on: Any, stream: TokenStream) -> Tensor:
    """The rule without the mean: (1, L)."""
    return torch.stack(
        [part.amax((1, 2)) for one in on.attention_of(stream, stream.question_tokens, LAYERS) for part in one]
    ).amax(0)


@pytest.mark.parametrize("plants", [[recency], [sinks], [recency, sinks]])
@torch.no_grad()
def test_heads_that_attend_alike_for_all_words_do_not_change_the_ranking(plants: list[Plant]) -> None:
    on = tinymodel.backbone()
    stream = asking(on, seconds=9.0)
    bare, planted = Planted(on, []), Planted(on, plants)

    def ranked(scores: Tensor) -> list[int]:
        return scores[stream.pool].argsort(descending=True, stable=True).tolist()

    assert ranked(relevant(planted, stream)) == ranked(relevant(bare, stream))  # type: ignore[arg-type]
    assert ranked(relevant(bare, stream)) == ranked(relevant(on, stream))  # type: ignore[arg-type]
    k = budget(stream.pool, 0.1)
    kept = [filled(highest(one, stream), stream.pool, k) for one in (bare, planted)]
    assert int((kept[0] & kept[1]).sum()) < 0.7 * int(kept[0].sum()), "without the mean they decide"


class Unsteady(Planted):
    """Its last head attends to the planted tokens more for some words than for others."""

    def attention_of(self, stream: TokenStream, tokens: Tensor, layers: int) -> Iterator[Iterator[Tensor]]:
        for blocks in super().attention_of(stream, tokens, layers):
            yield (torch.cat([part[:, :-1], part[:, -1:] * self._strength(part)], 1) for part in blocks)

    @staticmethod
    def _strength(part: Tensor) -> Tensor:
        return torch.linspace(0.6, 1.0, part.shape[2])[:, None]  # (K, 1)


def first_tokens(stream: TokenStream) -> Tensor:
    """A head that attends to the first two tokens of the clip alone."""
    chosen = stream.pool[0] & (stream.pool[0].cumsum(0) <= 2)
    return chosen / chosen.sum()


@torch.no_grad()
def test_sinks_of_the_attention_have_no_score_and_do_not_change_the_other_scores() -> None:
    on = tinymodel.backbone()
    stream = asking(on, seconds=9.0)
    chosen = first_tokens(stream) > 0
    bare, planted = relevant(Planted(on, []), stream), relevant(Unsteady(on, [first_tokens]), stream)  # type: ignore[arg-type]
    others = stream.pool[0] & ~chosen
    assert bool((bare[0, chosen] > 0).any()) and not bool(planted[0, chosen].any())
    torch.testing.assert_close(planted[0, others], bare[0, others])
    for name in ("relevance", "relevance-maxmin"):
        kept = EchoingPixels(Unsteady(on, [first_tokens])).select(stream, name, 0.1).keep  # type: ignore[arg-type]
        assert int((kept[0] & chosen).sum()) <= 1


@torch.no_grad()
def test_the_default_without_a_sieve_reads_no_attention_and_keeps_one_of_the_massive_activations() -> None:
    on = tinymodel.backbone()
    stream = asking(on, seconds=9.0)
    default = reducer_named(UNSIEVED)
    massive = stream.pool & (torch.rand(stream.mask.shape, generator=torch.Generator().manual_seed(3)) < 0.1)
    embeds = stream.embeds.clone()
    embeds[..., 7] += 1e4 * embeds.std() * massive
    kept = default.choose(on, None, replace(stream, embeds=embeds), 0.1).keep
    assert int(massive.sum()) > 10 and int((kept & massive).sum()) <= 2  # one of each modality
    unit, others = F.normalize(stream.embeds[0], dim=-1), (stream.pool & ~massive)[0]

    def radius(keep: Tensor) -> float:
        """Mean distance of the other tokens to the nearest kept one of them."""
        return float((1 - unit[others] @ unit[keep[0] & others].T).amin(1).mean())

    assert radius(kept) <= 1.1 * radius(default.choose(on, None, stream, 0.1).keep)
    for kind in (AUDIO, VIDEO):
        assert int((kept & (stream.kind == kind)).sum()) >= 0.2 * int(budget(stream.pool, 0.1))


@torch.no_grad()
def test_text_behind_the_question_does_not_count() -> None:
    on = tinymodel.backbone()
    stream = asking(on)
    last = int(stream.question_tokens[0].nonzero()[-1])
    embeds = stream.embeds.clone()
    embeds[:, last + 1 :] = torch.randn_like(embeds[:, last + 1 :])
    other = replace(stream, embeds=embeds)
    assert torch.equal(relevant(on, stream)[stream.pool], relevant(on, other)[stream.pool])
    answered = asking(on, answer="The first one.")
    assert answered.labels is not None and not bool((answered.question_tokens & (answered.labels != -100)).any())
    torch.testing.assert_close(relevant(on, answered)[answered.pool], relevant(on, stream)[stream.pool])


@torch.no_grad()
def test_text_before_the_clip_hardly_counts() -> None:
    on = tinymodel.backbone()
    model, first, other = EchoingPixels(on), asking(on), asking(on, system="Say what there is.")
    kept = [model.select(stream, "relevance", 0.2).keep[stream.pool] for stream in (first, other)]
    assert int((kept[0] & kept[1]).sum()) >= 0.9 * int(kept[0].sum())


@torch.no_grad()
def test_an_empty_question_is_asked_by_all_text_behind_the_clip() -> None:
    on = tinymodel.backbone()
    empty = asking(on, "")
    assert torch.equal(empty.question_tokens, empty.after_media) and bool(empty.question_tokens.any())
    together = pad([empty, asking(on), tinymodel.stream(on)])
    assert torch.equal(together.question_tokens[0], together.after_media[0])
    assert together.question_tokens.sum(1).tolist()[1] == len(QUESTION) < int(together.after_media[1].sum())
    assert torch.equal(together.question_tokens[2], together.after_media[2])


@torch.no_grad()
def test_reading_attention_leaves_the_decoder_as_it_is_even_while_it_runs() -> None:
    on = tinymodel.backbone()
    stream, config = asking(on), on.text.config
    before, hooks = on.hidden(stream), [len(layer.self_attn._forward_hooks) for layer in on.text.layers]
    for blocks in on.attention_of(stream, stream.question_tokens, LAYERS):
        for _ in blocks:
            assert config._attn_implementation == "sdpa"
            assert [len(layer.self_attn._forward_hooks) for layer in on.text.layers] == hooks
            assert torch.equal(on.hidden(stream), before)


def test_a_thread_that_selects_and_one_that_answers_do_not_disturb_each_other() -> None:
    on = tinymodel.backbone()
    model, stream = EchoingPixels(on), asking(on)
    kernels: set[str] = set()

    @torch.no_grad()
    def answer() -> Tensor:
        kernels.add(on.text.config._attn_implementation)
        return on.hidden(stream)

    def select() -> Tensor:
        return model.select(stream, "relevance", 0.1).keep

    hidden, kept = answer(), select()
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(answer) for _ in range(40)]
        choices = [pool.submit(select) for _ in range(40)]
        assert all(torch.equal(one.result(), hidden) for one in answers)
        assert all(torch.equal(one.result(), kept) for one in choices)
    assert kernels == {"sdpa"}
