"""Decoding: against transformers' own generate() where both apply, and against decoding without a cache everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.errors import OptionError
from echoingpixels.generation import decode
from echoingpixels.generation.decode import Text, stream_tokens
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.inputs.token_stream import TokenStream, pad
from echoingpixels.options import GenerateOptions
from tests.support import tinymodel

TOKENS = 12


def tokens(on: QwenOmni, stream: TokenStream, **options: Any) -> Tensor:
    """All tokens (B, N), -1 after a row's end."""
    chosen = GenerateOptions(**{"max_new_tokens": TOKENS, **options})
    return torch.stack(list(stream_tokens(on, stream, chosen)), dim=1)


def with_short_sound(on: QwenOmni) -> TokenStream:
    """A clip of 4 s whose sound ends in the last chunk before its last frame: its last position is not its largest."""
    clip = tinymodel.clip(4.0)
    assert clip.audio is not None
    media = prepare_media(replace(clip, audio=clip.audio[:35_200]), on.resolution)
    return tinymodel.embed(on, tinymodel.prompt(on, tinymodel.text(5), media, tinymodel.text(2)))


def slowly(on: QwenOmni, stream: TokenStream, first: int) -> Tensor:
    """Greedy tokens (B, N) by running everything again for each token, from position `first` on; no padding."""
    found: list[Tensor] = []
    embeds, positions = stream.embeds, stream.positions
    for step in range(TOKENS):
        run = replace(stream, embeds=embeds, positions=positions, mask=torch.ones(embeds.shape[:2], dtype=torch.bool))
        token = on.logits(on.hidden(run)[:, -1]).argmax(-1)
        found.append(token)
        embeds = torch.cat([embeds, on.text.embed_tokens(token[:, None])], 1)
        here = torch.full((3, len(token), 1), first + step)
        positions = torch.cat([positions, here], 2)
    return torch.stack(found, 1)


@torch.no_grad()
@pytest.mark.parametrize("sound", [True, False])
def test_decoding_equals_transformers_where_the_last_position_is_the_largest(sound: bool) -> None:
    on = tinymodel.backbone()
    stream = tinymodel.stream(on, sound=sound)
    assert int(stream.positions[0, 0, -1]) == int(stream.positions.max())
    theirs = on.thinker.generate(
        inputs_embeds=stream.embeds,
        position_ids=stream.positions,
        attention_mask=stream.mask.long(),
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert theirs.shape == (1, TOKENS)
    assert torch.equal(tokens(on, stream), theirs)


@torch.no_grad()
def test_decoding_equals_transformers_in_a_padded_batch() -> None:
    on = tinymodel.backbone()
    stream = pad([tinymodel.stream(on, 2.0), tinymodel.stream(on, 4.0, seed=5), tinymodel.text_stream(on)])
    theirs = on.thinker.generate(
        inputs_embeds=stream.embeds,
        position_ids=stream.positions,
        attention_mask=stream.mask.long(),
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(tokens(on, stream), theirs)


@torch.no_grad()
def test_after_sound_that_ends_early_decoding_continues_past_the_largest_position() -> None:
    on = tinymodel.backbone()
    stream = with_short_sound(on)
    largest = int(stream.positions.max())
    assert int(stream.positions[0, 0, -1]) < largest, "the case needs a last position below the largest"
    assert torch.equal(tokens(on, stream), slowly(on, stream, largest + 1))


def test_every_step_decodes_one_position_further(monkeypatch: pytest.MonkeyPatch) -> None:
    on = tinymodel.backbone()
    stream, decoded = with_short_sound(on), []
    step = on.decode

    def spy(token: Tensor, position: Tensor, *rest: Any) -> Tensor:
        decoded.append(int(position))
        return step(token, position, *rest)

    monkeypatch.setattr(on, "decode", spy)
    tokens(on, stream)
    first = int(stream.positions.max()) + 1
    assert decoded == list(range(first, first + TOKENS - 1))


def test_every_row_of_a_batch_gives_the_tokens_of_the_row_alone() -> None:
    on = tinymodel.backbone()
    alone = [tinymodel.stream(on, 2.0), with_short_sound(on), tinymodel.text_stream(on)]
    assert torch.equal(tokens(on, pad(alone)), torch.cat([tokens(on, stream) for stream in alone]))


def batch(on: QwenOmni) -> list[TokenStream]:
    """Rows of three lengths, two of one."""
    seconds = (2.0, 4.0, 2.0, 1.0)
    return [*(tinymodel.stream(on, s, seed=seed) for seed, s in enumerate(seconds)), with_short_sound(on)]


def test_long_rows_of_a_batch_run_by_equal_length_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    on, runs = tinymodel.backbone(), []
    hidden = on.hidden

    def spy(stream: TokenStream, *rest: Any) -> Tensor:
        runs.append((len(stream.mask), bool(stream.mask.all())))
        return hidden(stream, *rest)

    alone = batch(on)
    expected = torch.cat([tokens(on, stream) for stream in alone])
    monkeypatch.setattr(on, "hidden", spy)
    for limit, groups in ((decode.MASKED, [(5, False)]), (1, [(2, True), (1, True), (1, True), (1, True)])):
        monkeypatch.setattr(decode, "MASKED", limit)
        runs.clear()
        assert torch.equal(tokens(on, pad(alone)), expected)
        assert runs == groups


@torch.no_grad()
def test_a_joined_cache_is_that_of_the_padded_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    on = tinymodel.backbone()
    padded = pad(batch(on))
    monkeypatch.setattr(decode, "MASKED", 1)
    made = decode.prefill(on, padded, GenerateOptions())
    last, cache, mask = made.hidden, made.cache, made.mask
    plain = on.new_cache()
    torch.testing.assert_close(last, on.hidden(padded, plain)[:, -1:])
    assert mask is not None and torch.equal(mask, padded.mask)
    for one, other in zip(cache.layers, plain.layers, strict=True):
        for x, y in ((one.keys, other.keys), (one.values, other.values)):
            assert x.shape == y.shape
            torch.testing.assert_close(x.transpose(1, 2)[mask], y.transpose(1, 2)[mask])


def test_rows_of_one_length_are_decoded_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    on, masks = tinymodel.backbone(), []
    step = on.decode

    def spy(token: Tensor, position: Tensor, mask: Tensor | None, *rest: Any) -> Tensor:
        masks.append(mask)
        return step(token, position, mask, *rest)

    alone = [tinymodel.stream(on, 2.0, seed=seed) for seed in range(3)]
    expected = torch.cat([tokens(on, stream) for stream in alone])
    monkeypatch.setattr(on, "decode", spy)
    assert torch.equal(tokens(on, pad(alone)), expected)
    assert masks == [None] * (TOKENS - 1)


def test_several_rows_have_no_single_answer() -> None:
    model = tinymodel.model()
    stream = pad([tinymodel.stream(tinymodel.backbone(), seconds) for seconds in (1.0, 2.0)])
    with pytest.raises(OptionError, match="2 rows"):
        model.generate(stream)


def test_a_stop_token_is_yielded_and_ends_its_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    on = tinymodel.backbone()
    stream = pad([tinymodel.stream(on, 2.0), tinymodel.stream(on, 3.0, seed=5)])
    free = tokens(on, stream)
    stop = int(free[0, 3])
    monkeypatch.setattr(on, "stop_ids", frozenset({stop}))
    for row, whole in zip(tokens(on, stream).tolist(), free.tolist(), strict=True):
        end = whole.index(stop) + 1 if stop in whole else TOKENS
        row_end = row.index(-1) if -1 in row else len(row)
        assert row[:row_end] == whole[: min(end, row_end)] and set(row[row_end:]) <= {-1}
    alone = tokens(on, tinymodel.stream(on, 2.0))
    assert int(alone[0, -1]) == stop
    assert alone.shape[1] == free[0].tolist().index(stop) + 1


def test_the_token_limit_is_exact() -> None:
    on = tinymodel.backbone()
    assert tokens(on, tinymodel.stream(on), max_new_tokens=1).shape == (1, 1)
    assert tokens(on, tinymodel.stream(on), max_new_tokens=5).shape == (1, 5)


def test_sampled_tokens_follow_the_seed() -> None:
    on = tinymodel.backbone()
    stream = tinymodel.stream(on)
    first = tokens(on, stream, temperature=1.5, seed=1)
    assert torch.equal(first, tokens(on, stream, temperature=1.5, seed=1))
    assert not torch.equal(first, tokens(on, stream, temperature=1.5, seed=2))
    assert not torch.equal(first, tokens(on, stream))


def test_a_low_temperature_is_nearly_greedy() -> None:
    on = tinymodel.backbone()
    stream = tinymodel.stream(on)
    assert torch.equal(tokens(on, stream, temperature=1e-4), tokens(on, stream))


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"temperature": -0.1}, {"temperature": float("nan")}])
def test_invalid_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        GenerateOptions(**options)  # type: ignore[arg-type]


def test_text_holds_back_a_character_until_it_is_whole() -> None:
    on = tinymodel.backbone()
    ids = on.tokenizer.encode("né 🐱!", add_special_tokens=False)  # bytes
    text = Text(on)
    pieces = [text.push(token) for token in ids]
    assert "".join(pieces) == text.text == "né 🐱!"
    assert pieces == ["n", "", "é", " ", "", "", "", "🐱", "!"]
    assert text.ids == ids


def test_text_has_its_finish_reason_and_leaves_the_stop_token_out(monkeypatch: pytest.MonkeyPatch) -> None:
    on = tinymodel.backbone()
    stop = tinymodel.mark("<|im_end|>")
    monkeypatch.setattr(on, "stop_ids", frozenset({stop}))
    text = Text(on)
    for token in on.tokenizer.encode("cat", add_special_tokens=False):
        text.push(token)
    assert text.reason == "length"
    assert text.push(stop) == ""
    assert (text.text, text.reason, text.ids[-1]) == ("cat", "stop", stop)
