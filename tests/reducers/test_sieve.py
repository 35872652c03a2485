"""CS2: its inputs and outputs, and that a batch equals its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from echoingpixels.backbones.decoder import TOKENS
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.errors import OptionError
from echoingpixels.generation.decode import stream_tokens
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.inputs.token_stream import Selection, TokenStream, pad
from echoingpixels.options import GenerateOptions
from echoingpixels.reducers.cs2 import Sieve, SieveOptions
from tests.support import tinymodel

NOISE = 2e-5  # float32, over a few layers
FORMS = ("fused", "extractive")
KERNELS = ("sdpa", "eager")
SPLIT = [2, 2, 2, 2]


@pytest.fixture(params=KERNELS)
def on(request: pytest.FixtureRequest) -> Iterator[QwenOmni]:
    """The random thinker under each attention kernel, with a Sync-RoPE split."""
    backbone = tinymodel.backbone(request.param)
    backbone.set_sections(SPLIT)
    yield backbone
    backbone.set_sections(tinymodel.PLAIN)


def rows(on: QwenOmni) -> list[TokenStream]:
    """Prompts of unequal length, one of them without media, one without sound."""
    return [
        tinymodel.stream(on, 2.0),
        tinymodel.stream(on, 4.0, seed=3, before=2),
        tinymodel.text_stream(on, 12),
        tinymodel.stream(on, 3.0, sound=False, seed=5),
    ]


def labelled(stream: TokenStream, answer: int = 4) -> TokenStream:
    """The same prompt with its last tokens as the answer."""
    labels = torch.arange(stream.kind.shape[1])[None] % 200
    labels[:, :-answer] = -100
    return replace(stream, labels=labels)


def loss_of(on: QwenOmni, taken: TokenStream) -> Tensor:
    assert taken.labels is not None
    logits = on.logits(on.hidden(taken))
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), taken.labels[:, 1:].flatten())


def greedy(on: QwenOmni, stream: TokenStream, n: int = 6) -> Tensor:
    """n greedy tokens (B, n) of each row."""
    return torch.stack(list(stream_tokens(on, stream, GenerateOptions(max_new_tokens=n))), 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [0, 2])
@torch.no_grad()
def test_every_row_of_a_padded_batch_gives_what_it_gives_alone(on: QwenOmni, form: str, layers: int) -> None:
    sieve = tinymodel.sieve(on, form=form, layers=layers)
    single = rows(on)
    together = pad(single)
    selection = sieve(together, 0.2)
    taken = together.take(selection)
    logits, tokens = on.logits(on.hidden(taken)), greedy(on, taken)
    for i, row in enumerate(single):
        alone = sieve(row, 0.2)
        real = together.mask[i]
        assert torch.equal(selection.keep[i][real], alone.keep[0])
        if alone.scores is not None:
            pool = row.pool[0]
            torch.testing.assert_close(selection.scores[i][real][pool], alone.scores[0][pool], rtol=0, atol=NOISE)
        kept = row.take(alone)
        torch.testing.assert_close(taken.embeds[i][taken.mask[i]], kept.embeds[0], rtol=0, atol=NOISE)
        here = on.logits(on.hidden(kept))
        torch.testing.assert_close(logits[i][taken.mask[i]], here[0], rtol=0, atol=10 * NOISE)
        assert torch.equal(tokens[i], greedy(on, kept)[0])


@pytest.mark.parametrize("form", FORMS)
def test_training_on_a_padded_batch_is_training_on_its_rows(on: QwenOmni, form: str) -> None:
    sieve = tinymodel.sieve(on, form=form)
    single = [labelled(row) for row in rows(on) if bool(row.pool.any())]
    together = pad(single)
    selection = sieve(together, 0.2)
    for i, row in enumerate(single):
        alone = sieve(row, 0.2)
        assert torch.equal(selection.keep[i][together.mask[i]], alone.keep[0])
        here, there = together.take(selection), row.take(alone)
        torch.testing.assert_close(here.embeds[i][here.mask[i]], there.embeds[0], rtol=0, atol=NOISE)
        assert here.labels is not None and there.labels is not None
        assert torch.equal(here.labels[i][here.mask[i]], there.labels[0])


@torch.no_grad()
def test_padding_is_never_read(on: QwenOmni) -> None:
    sieve = tinymodel.sieve(on)
    together = pad(rows(on))
    noise = together.embeds.masked_fill(~together.mask[..., None], 50.0)
    clean, dirty = sieve(together, 0.2), sieve(replace(together, embeds=noise), 0.2)
    assert torch.equal(clean.keep, dirty.keep)
    torch.testing.assert_close(clean.fused[together.mask], dirty.fused[together.mask], rtol=0, atol=NOISE)


@torch.no_grad()
def test_text_alone_passes_untouched_also_beside_clips(on: QwenOmni) -> None:
    sieve = tinymodel.sieve(on)
    text = tinymodel.text_stream(on)
    assert sieve(text, 0.2).fused is None
    together = pad([tinymodel.stream(on), text])
    taken = together.take(sieve(together, 0.2))
    assert torch.equal(taken.embeds[1][taken.mask[1]], text.embeds[0])


@torch.no_grad()
def test_both_attention_kernels_choose_the_same_and_answer_the_same() -> None:
    results = []
    for kernel in KERNELS:
        on = tinymodel.backbone(kernel)
        together = pad(rows(on))
        taken = together.take(tinymodel.sieve(on)(together, 0.2))
        results.append((taken, on.logits(on.hidden(taken))))
    (one, first), (two, second) = results
    assert torch.equal(one.positions, two.positions) and torch.equal(one.mask, two.mask)
    torch.testing.assert_close(first[one.mask], second[two.mask], rtol=0, atol=10 * NOISE)


@torch.no_grad()
def test_keeping_everything_still_runs_the_encoder(on: QwenOmni) -> None:
    stream = tinymodel.stream(on)
    selection = tinymodel.sieve(on)(stream, 1.0)
    assert bool(selection.keep.all())
    assert selection.fused is not None
    changed = (selection.fused != stream.embeds).any(-1)
    assert bool(changed.all())  # text too


@torch.no_grad()
def test_the_extractive_form_leaves_every_kept_token_as_it_was(on: QwenOmni) -> None:
    stream = tinymodel.stream(on)
    selection = tinymodel.sieve(on, form="extractive")(stream, 0.2)
    taken = stream.take(selection)
    assert torch.equal(taken.embeds[0], stream.embeds[0][selection.keep[0]])


@torch.no_grad()
def test_both_forms_choose_the_same_tokens(on: QwenOmni) -> None:
    stream = tinymodel.stream(on)
    kept = [tinymodel.sieve(on, form=form)(stream, 0.2).keep for form in FORMS]
    assert torch.equal(*kept)


@pytest.mark.parametrize("sound", [True, False])
@torch.no_grad()
def test_without_encoder_and_with_all_tokens_it_is_the_stock_model_bit_for_bit(sound: bool) -> None:
    on = tinymodel.backbone()
    media = prepare_media(tinymodel.clip(5.0, sound, fps=1.0), on.resolution)
    inputs = tinymodel.prompt(on, tinymodel.text(6), media, tinymodel.text(9, 1))
    given: dict[str, Any] = {
        "pixel_values_videos": media.patches,
        "video_grid_thw": torch.tensor([media.grid]),
        "video_second_per_grid": torch.tensor([2.0]),
        "use_audio_in_video": sound,
    }
    if media.mel is not None:
        given["input_features"] = media.mel[None]
        given["feature_attention_mask"] = torch.ones(1, media.mel.shape[1], dtype=torch.long)
    stock = on.thinker(input_ids=inputs.input_ids, attention_mask=torch.ones_like(inputs.input_ids), **given).logits
    try:
        on.set_sections([*tinymodel.PLAIN, 0])
        stream = tinymodel.embed(on, inputs)
        taken = stream.take(tinymodel.sieve(on, layers=0)(stream, 1.0))
        ours = on.logits(on.hidden(taken))
    finally:
        on.set_sections(tinymodel.PLAIN)
    assert torch.equal(ours, stock)


def test_no_noise_is_drawn_at_inference_and_some_in_training(on: QwenOmni) -> None:
    noisy, plain = tinymodel.sieve(on, gumbel=True), tinymodel.sieve(on)
    stream = tinymodel.stream(on)
    kept = {tuple(noisy(stream, 0.2).keep[0].tolist()) for _ in range(4)}
    assert kept == {tuple(plain(stream, 0.2).keep[0].tolist())}
    training = labelled(stream)
    assert len({tuple(noisy(training, 0.2).keep[0].tolist()) for _ in range(4)}) > 1
    assert len({tuple(plain(training, 0.2).keep[0].tolist()) for _ in range(4)}) == 1


def test_the_last_bias_of_the_score_head_has_no_gradient_but_all_else_has(on: QwenOmni) -> None:
    sieve = tinymodel.sieve(on)
    stream = labelled(tinymodel.stream(on))
    loss_of(on, stream.take(sieve(stream, 0.2))).backward()
    gradients = {name: float(p.grad.abs().max()) for name, p in sieve.named_parameters() if p.grad is not None}
    assert gradients.keys() == dict(sieve.named_parameters()).keys()
    last = gradients.pop("compressor.score_head.2.bias")
    scale = gradients["compressor.score_head.2.weight"]
    assert last < 1e-5 * scale  # a shift of all scores changes no share
    # a shift of all keys changes no attention either
    assert all(size > 0 for name, size in gradients.items() if "k_proj.bias" not in name)


@torch.no_grad()
def test_scores_of_a_half_precision_sieve_do_not_tie_at_the_cut() -> None:
    on, n = tinymodel.backbone(), 5000
    sieve = tinymodel.sieve(on)
    hidden = torch.randn(1, n, tinymodel.WIDTH, generator=torch.Generator().manual_seed(2))
    last = sieve.compressor.score_head[2]
    last.weight /= sieve.score(hidden).std()
    last.bias.copy_(10 - (sieve.score(hidden).mean() - last.bias))
    half = sieve.compressor.bfloat16()
    scores, coarse = sieve.score(hidden.bfloat16()), half(hidden.bfloat16()).float()
    assert scores.dtype == torch.float32 and half.ln.weight.dtype == torch.bfloat16
    assert 9.5 < float(scores.mean()) < 10.5 and 0.8 < float(scores.std()) < 1.2

    def ties(found: Tensor) -> int:
        """Tokens whose score is that of the last token kept at a tenth."""
        return int((found == found[0].sort(descending=True).values[n // 10 - 1]).sum())

    assert ties(scores) <= 2 and ties(coarse) > 20
    torch.testing.assert_close(scores, coarse, rtol=0, atol=0.2)


@torch.no_grad()
def test_a_long_stream_is_scored_in_parts_and_each_token_as_in_the_whole() -> None:
    sieve = tinymodel.sieve(tinymodel.backbone())
    hidden = torch.randn(2, TOKENS + 100, tinymodel.WIDTH)
    torch.testing.assert_close(sieve.score(hidden), sieve.compressor(hidden), rtol=0, atol=NOISE)


def test_only_kept_tokens_pass_gradient(on: QwenOmni) -> None:
    sieve = tinymodel.sieve(on)
    stream = labelled(tinymodel.stream(on))
    selection: Selection = sieve(stream, 0.2)
    assert selection.fused is not None
    leaf = selection.fused.detach().requires_grad_()
    loss_of(on, stream.take(replace(selection, fused=leaf))).backward()
    assert leaf.grad is not None
    passed = (leaf.grad[0] != 0).any(-1)
    assert not bool((passed & ~selection.keep[0]).any())
    assert bool(passed[selection.keep[0] & stream.pool[0]].all())


@torch.no_grad()
def test_the_gate_is_one_for_every_kept_token(on: QwenOmni) -> None:
    stream = labelled(tinymodel.stream(on))
    selection = tinymodel.sieve(on)(stream, 0.2)
    torch.testing.assert_close(selection.gate[selection.keep], torch.ones(int(selection.keep.sum())), rtol=0, atol=2e-7)


@torch.no_grad()
def test_answers_are_hidden_from_the_encoder_in_training(on: QwenOmni) -> None:
    sieve = tinymodel.sieve(on)
    media = prepare_media(tinymodel.clip(), on.resolution)
    before, after, answer = tinymodel.text(5), tinymodel.text(7, 1), tinymodel.text(4, 2)
    asked = tinymodel.embed(on, tinymodel.prompt(on, before, media, after))
    answered = tinymodel.embed(on, tinymodel.prompt(on, before, media, after + answer))
    labels = torch.full_like(answered.kind, -100)
    labels[:, -len(answer) :] = torch.tensor(answer)
    inference, training = sieve(asked, 0.2), sieve(replace(answered, labels=labels), 0.2)
    n = asked.kind.shape[1]
    torch.testing.assert_close(training.fused[:, :n], inference.fused, rtol=0, atol=NOISE)
    assert torch.equal(training.keep[:, :n], inference.keep)
    assert torch.equal(training.fused[:, n:], answered.embeds[:, n:])  # answers stay as they were


@torch.no_grad()
def test_shares_sum_to_one_over_each_pool_and_are_nothing_elsewhere(on: QwenOmni) -> None:
    sieve = tinymodel.sieve(on, tau=0.7)
    together = pad(rows(on))
    shares = sieve.shares(sieve(together, 0.2).scores, together.pool)
    torch.testing.assert_close(shares.sum(1), together.pool.any(1).float())
    assert not bool(shares[~together.pool].any())


def test_the_encoder_is_a_copy_that_leaves_the_decoder_causal(on: QwenOmni) -> None:
    sieve = Sieve(on, SieveOptions(layers=2))
    for copied, original in zip(sieve.layers, on.text.layers, strict=False):
        assert copied.self_attn.is_causal is False and original.self_attn.is_causal is True
        for ours, theirs in zip(copied.parameters(), original.parameters(), strict=True):
            assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()


def test_an_option_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match="fused, extractive"):
        SieveOptions(form="mixed")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="tau"):
        SieveOptions(tau=0.0)
    with pytest.raises(OptionError, match="layers"):
        SieveOptions(layers=-1)


@torch.no_grad()
def test_a_causal_encoder_scores_a_token_from_earlier_tokens(on: QwenOmni) -> None:
    row = tinymodel.stream(on, 4.0)
    last = int(row.pool[0].nonzero()[-1])
    changed = replace(row, embeds=row.embeds.index_fill(1, torch.tensor([last]), 1.0))
    for bidirectional in (True, False):
        sieve = tinymodel.sieve(on, bidirectional=bidirectional)
        moved = (sieve(row, 0.2).scores - sieve(changed, 0.2).scores)[0, :last][row.pool[0, :last]].abs().max()
        assert (moved > NOISE) == bidirectional


@torch.no_grad()
def test_an_encoder_without_the_question_scores_from_the_clip_alone(on: QwenOmni) -> None:
    row = tinymodel.stream(on, 4.0)
    other = replace(row, embeds=torch.where(row.pool[..., None], row.embeds, row.embeds.flip(1)))
    for question in (True, False):
        sieve = tinymodel.sieve(on, question=question)
        moved = (sieve(row, 0.2).scores - sieve(other, 0.2).scores)[row.pool].abs().max()
        assert (moved > NOISE) == question
        assert not question or sieve(row, 0.2).fused is not None
    blind = tinymodel.sieve(on, question=False)(row, 0.2)
    assert torch.equal(blind.fused[~row.pool], row.embeds[~row.pool])
