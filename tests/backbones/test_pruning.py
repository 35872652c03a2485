"""Cells dropped inside the vision encoder: against dense attention, and what follows in the stream and the report."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from echoingpixels.backbones.encoders import VisionEncoder, encode_cells
from echoingpixels.backbones.pruning import default_layers, prune_steps
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.backbones.sizes import vision_flops
from echoingpixels.batching import Prompt
from echoingpixels.encoded_clip import from_cache
from echoingpixels.errors import OptionError
from echoingpixels.explain.explanation import explain
from echoingpixels.features.cache import CachedClip, FeatureCache
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.kept import kept_by_clip
from echoingpixels.inputs.positions import TEXT
from echoingpixels.inputs.prompt import Message
from echoingpixels.inputs.token_stream import Selection, TokenStream
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions
from echoingpixels.options.encoder_keep import PICKS, EncoderKeep, Pick, read_encoder_keep
from echoingpixels.report import TokenCounts
from tests.backbones.test_vision import GRIDS, KERNELS, patches, some_cells, walk
from tests.support import tinymodel
from tests.support.dense import thinned

NOISE = 2e-4
THIRD = EncoderKeep((0.34,), (1,))
SHORT = GenerateOptions(3)
QUESTION = "Who rings the bell?"


@cache
def deep(kernel: str = "sdpa", full: tuple[int, ...] = (1, 3, 5), depth: int = 6) -> Any:
    """A random vision encoder with windows between layers with full attention."""
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniVisionEncoder

    config = tinymodel.config().vision_config
    config.depth, config.fullatt_block_indexes, config._attn_implementation = depth, list(full), kernel
    torch.manual_seed(0)
    made = Qwen2_5OmniVisionEncoder(config).float().eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.15)
    return made


def thin(keep: EncoderKeep | None = THIRD, reuse: float | None = None) -> EchoingPixels:
    """The random model with an encoder that drops cells."""
    plain = tinymodel.model()
    on = tinymodel.backbone()
    return EchoingPixels(QwenOmni(on.thinker, on.tokenizer, on.name, on.resolution, reuse, keep), plain.sieve)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_an_encoder_that_keeps_all_cells_equals_the_plain_one_bit_for_bit(
    kernel: str, grid: tuple[int, int, int]
) -> None:
    on, pixels = deep(kernel), patches(grid)
    plain = VisionEncoder(on).encode(pixels, *grid[1:])
    made = VisionEncoder(on, None, EncoderKeep((1.0,), (2,))).encode(pixels, *grid[1:])
    assert torch.equal(made.features, plain.features) and torch.equal(made.saliency, plain.saliency)
    assert plain.kept is None and made.kept is not None and bool(made.kept.all())


@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("shares", [{2: 0.5}, {1: 0.7, 4: 0.2}, {5: 0.1}], ids=str)
@pytest.mark.parametrize(("kernel", "full"), [("sdpa", (1, 3, 5)), ("eager", (1, 3, 5)), ("sdpa", (1, 3))], ids=str)
@torch.no_grad()
def test_kept_cells_attend_as_under_one_mask_over_all_pairs(
    kernel: str, full: tuple[int, ...], shares: dict[int, float], share: float
) -> None:
    on, grid = deep(kernel, full), (2, 10, 14)
    pixels, cells = patches(grid), some_cells(grid, share)
    want, weights, numbers = thinned(on, pixels, grid, cells, shares)
    keep = prune_steps(on, EncoderKeep(tuple(shares.values()), tuple(shares)))
    features, saliency, kept = encode_cells(on, pixels, grid, cells, keep)
    assert torch.equal(cells.nonzero()[:, 0][kept], numbers) and 0 < len(numbers) < int(cells.sum())
    torch.testing.assert_close(features[kept], want, rtol=0, atol=NOISE)
    received = weights.sum(1).mean(0).view(-1, 4).mean(1)
    torch.testing.assert_close(saliency[kept], received, rtol=0, atol=NOISE)
    assert not bool(features[~kept].any())


@pytest.mark.parametrize("pick", PICKS)
@torch.no_grad()
def test_each_pick_keeps_the_cells_that_lie_farthest_apart_by_its_measure(pick: Pick) -> None:
    on, grid = deep(), (2, 10, 14)
    pixels, cells = patches(grid), some_cells(grid, 0.8)
    _, _, numbers = thinned(on, pixels, grid, cells, {2: 0.4}, pick)
    steps = prune_steps(on, EncoderKeep((0.4,), (2,), pick=pick))
    _, _, kept = encode_cells(on, pixels, grid, cells, steps)
    assert torch.equal(cells.nonzero()[:, 0][kept], numbers)


@torch.no_grad()
def test_parts_of_a_clip_give_the_features_of_the_whole() -> None:
    on, grid = deep(), (5, 8, 10)
    pixels, keep = patches(grid), EncoderKeep((0.5, 0.3), (2, 4))
    whole, encoder = VisionEncoder(on, None, keep).encode(pixels, 8, 10), VisionEncoder(on, None, keep)
    parts = [encoder.encode(part, 8, 10) for part in pixels.split([160, 80, 160])]
    assert whole.kept is not None and whole.kept.view(5, 20).sum(1).tolist() == [6] * 5
    assert torch.equal(torch.cat([part.kept for part in parts if part.kept is not None]), whole.kept)
    torch.testing.assert_close(torch.cat([part.features for part in parts]), whole.features, rtol=0, atol=NOISE)


@torch.no_grad()
def test_an_unchanged_cell_stays_or_is_absent_as_when_it_was_last_encoded() -> None:
    on, pixels, keep = deep(), walk(7), EncoderKeep((0.5,), (2,))
    made = VisionEncoder(on, 0.0, keep).encode(pixels, 4, 6)
    assert made.kept is not None
    new, kept, features = made.new.view(7, 6), made.kept.view(7, 6), made.features.view(7, 6, -1)
    assert 0 < int(new[1:].sum()) < 36
    for step in range(1, 7):
        old = ~new[step]
        assert torch.equal(kept[step, old], kept[step - 1, old])
        assert torch.equal(features[step, old], features[step - 1, old])
        n = int(new[step].sum())
        assert int(kept[step, new[step]].sum()) == math.ceil(n / 2)
    want, _, numbers = thinned(on, pixels, (7, 4, 6), made.new, {2: 0.5})
    torch.testing.assert_close(made.features[numbers], want, rtol=0, atol=NOISE)


@torch.no_grad()
def test_tokens_that_are_left_keep_their_place_and_time() -> None:
    plain, less, clip = tinymodel.model(), thin(), tinymodel.clip(3.0)
    encoded = less.encode(clip)
    whole, some = (model.embed(model.encode(clip).prompt(QUESTION)) for model in (plain, less))
    cells = encoded.features.cells
    assert cells is not None and encoded.features.video is not None
    assert len(cells) == len(encoded.features.video) == 3 * math.ceil(0.34 * 6)
    video = whole.vision[0].nonzero()[:, 0]
    here = torch.ones_like(whole.mask[0])
    here[video] = False
    here[video[cells]] = True
    for name in ("kind", "time", "cell", "mask", "question"):
        torch.testing.assert_close(getattr(some, name)[0], getattr(whole, name)[0, here], equal_nan=True)
    assert torch.equal(some.positions[:, 0], whole.positions[:, 0, here])
    assert torch.equal(some.next_position, whole.next_position)
    assert some.before == whole.row_counts() and some.absent == (18 - len(cells),)
    assert torch.equal(some.embeds[some.vision], encoded.features.video)
    assert torch.equal(some.embeds[0, some.kind[0] == TEXT], whole.embeds[0, whole.kind[0] == TEXT])


def chosen(model: EchoingPixels, prompts: list[Prompt], options: AskOptions) -> tuple[TokenStream, Selection]:
    """The stream and the selection of a batch."""
    found: list[Any] = []
    list(model.stream(prompts, options, lambda *both: found.append(both)))
    return found[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("keep", [0.1, 0.4, 0.95])
@pytest.mark.parametrize("reducer", ["cs2", "cs2-maxmin", "maxmin-floors", "relevance", "uniform", "random"])
def test_the_budget_is_that_of_the_whole_clip(reducer: str, keep: float) -> None:
    model = thin()
    prompts = [model.encode(tinymodel.clip(seconds)).prompt(QUESTION) for seconds in (2.0, 4.0)]
    stream, selection = chosen(model, prompts, AskOptions(reducer, keep, SHORT))
    present, whole = stream.pool.sum(1).tolist(), [one.clip.media.span.tokens for one in prompts]
    assert all(a < b for a, b in zip(present, whole, strict=True))
    want = [min(n, math.ceil(keep * of)) for n, of in zip(present, whole, strict=True)]
    assert (selection.keep & stream.pool).sum(1).tolist() == want


@pytest.mark.parametrize("reducer", ["cs2", "maxmin-floors", "diverse", "seats", "full"])
def test_a_row_of_a_batch_of_clips_is_answered_as_alone(reducer: str) -> None:
    model, options = thin(), AskOptions(reducer, 1.0 if reducer == "full" else 0.3, SHORT)
    clips = [tinymodel.clip(2.0), tinymodel.clip(4.0, seed=3), tinymodel.clip(3.0, sound=False)]
    asked = [(model.encode(clip), QUESTION) for clip in clips]
    together, alone = model.answer(asked, options), [model.answer([one], options)[0] for one in asked]
    for one, other in zip(together, alone, strict=True):
        assert one.token_ids == other.token_ids and one.kept_times == other.kept_times
        assert one.report.tokens == other.report.tokens and one.report.encoded == other.report.encoded
    again = asked[0][0].ask(QUESTION, options)  # from the clip's prefix, where the reducer reads no question
    assert again.token_ids == alone[0].token_ids and again.report.tokens == alone[0].report.tokens


def test_the_report_counts_the_whole_clip_and_what_was_encoded_to_the_end() -> None:
    plain, less, clip = tinymodel.model(), thin(), tinymodel.clip(4.0)
    before, after = (model.encode(clip).ask(QUESTION, reducer="uniform", keep=0.2) for model in (plain, less))
    assert after.report.encoded == TokenCounts(video=12, audio=100) and before.report.encoded.video == 24
    assert after.report.tokens.before == before.report.tokens.before
    assert after.report.tokens.after.pool == before.report.tokens.after.pool
    assert after.report.flops.reduced < before.report.flops.reduced and not after.notes
    few = less.encode(clip).ask(QUESTION, reducer="uniform", keep=0.95)
    assert few.report.tokens.after.pool == 112 and "112 of 124" in few.notes[0]


def test_operations_are_those_of_the_cells_that_each_layer_reads() -> None:
    on, grid, keep = deep(), (3, 4, 4), EncoderKeep((0.5,), (2,))

    def size(module: Any) -> int:
        return sum(weight.numel() for weight in module.parameters())

    def layer(patches: int, products: int) -> int:
        return patches * (2 * size(on.blocks[0]) + patches * products * 48)

    step = 16 * 2 * size(on.patch_embed) + 2 * layer(16, 4) + 3 * layer(8, 4) + layer(8, 6) + 2 * 2 * size(on.merger)
    assert vision_flops(on, grid, None, prune_steps(on, keep)) == 3 * (step + 2 * 4**2 * 48)  # with the distances
    encoded = thin().encode(tinymodel.clip(4.0))
    assert encoded.encoder_flops == thin().backbone.encoder_flops(encoded.media)
    assert encoded.encoder_flops < tinymodel.backbone().encoder_flops(encoded.media)


def test_an_explanation_and_the_kept_tokens_name_the_cells_of_the_whole_clip() -> None:
    model, clip, options = thin(), tinymodel.clip(3.0), AskOptions("uniform", 0.3, SHORT)
    encoded = model.encode(clip)
    prompt = Prompt.of(model, [Message("user", (encoded, QUESTION))])
    stream, selection = chosen(model, [prompt], options)
    (kept,) = kept_by_clip(prompt.inputs, stream.take(selection))
    explanation = explain(encoded, clip, QUESTION, options, keeps=(1.0,))
    assert explanation.kept(explanation.choices[0]) == kept and kept.video
    assert explanation.kept(explanation.choices[-1]).video == tuple(encoded.features.cells.tolist())  # type: ignore[union-attr]
    for number in kept.video:
        token = next(t for t in explanation.tokens if t.cell == (number % 6 // 3, number % 3) and t.kind == "video")
        assert token.cell is not None


def test_features_come_back_from_the_cache(tmp_path: Path) -> None:
    model, cache = thin(), FeatureCache(tmp_path)
    clip = model.encode(tinymodel.clip(3.0))
    cache.put("ab" * 32, CachedClip(clip.media, clip.features, clip.source, clip.duration))
    entry = cache.get("ab" * 32, "clip.mp4")
    assert entry is not None
    back = from_cache(model, entry, {})
    assert torch.equal(back.features.cells, clip.features.cells)  # type: ignore[arg-type]
    assert back.features.encoded(False) == clip.features.encoded(False) and back.encoder_flops == clip.encoder_flops
    options = AskOptions("maxmin-floors", 0.2, SHORT)
    assert back.ask(QUESTION, options).token_ids == clip.ask(QUESTION, options).token_ids


def test_reused_cells_are_dropped_and_counted_too() -> None:
    clip = tinymodel.clip(4.0)
    clip.frames[2:] = clip.frames[:1]  # the second step differs, the others repeat it
    encoded = thin(reuse=0.0).encode(clip)
    assert encoded.features.cells is not None and encoded.features.new_video is not None
    assert encoded.features.cells.view(4, 3).remainder(6)[1:].unique(dim=0).shape[0] == 1
    assert encoded.features.encoded(False).video == 6
    answer = encoded.ask(QUESTION, reducer="uniform", keep=0.2)
    assert answer.report.encoded.video == 6 and answer.report.tokens.video.before == 24


def test_an_encoder_has_its_own_places_to_drop_cells() -> None:
    def places(depth: int, full: tuple[int, ...], drops: int = 1) -> tuple[int, ...]:
        on: Any = type("Encoder", (), {"blocks": range(depth), "fullatt_block_indexes": full})
        return default_layers(on, drops)

    assert [places(32, (7, 15, 23, 31), n) for n in (1, 2, 4)] == [(8,), (8, 16), (8, 16, 24)]
    assert places(4, (0, 1, 2, 3), 2) == (2, 3) and places(2, (1,), 2) == (1,)
    assert [(step.layers, step.share) for step in prune_steps(deep(), EncoderKeep((0.3,)))] == [(2, 0.3)]
    assert [(step.layers, step.share) for step in prune_steps(deep(), EncoderKeep((0.5, 0.3)))] == [(2, 0.5), (4, 0.3)]


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("auto", "auto"),
        ("off", None),
        (" 0.3 ", EncoderKeep((0.3,))),
        ("0.3@8,0.15@16", EncoderKeep((0.3, 0.15), (8, 16))),
        ("3x", EncoderKeep((3.0,), times=True)),
        ("3x@8,1.5x@16", EncoderKeep((3.0, 1.5), (8, 16), times=True)),
        ("0.3@8:states", EncoderKeep((0.3,), (8,), pick="states")),
        ("3x:places", EncoderKeep((3.0,), times=True, pick="places")),
        ("0.5,0.25", EncoderKeep((0.5, 0.25))),
    ],
)
def test_an_encoder_keep_is_read_from_text(text: str, keep: Any) -> None:
    assert read_encoder_keep(text) == keep and LoadOptions(encoder_keep=keep).encoder_keep == keep
    assert keep in (None, "auto") or EncoderKeep.read(str(keep)) == keep


@pytest.mark.parametrize(
    "text",
    [
        *("", "all", "0", "1.1", "nan", "0.3@", "0.3@0", "0.1,0.3", "0.3@8,0.1", "0.1@2,0.3@4", "0.3@4,0.1@2"),
        *("x", "0x", "3x@8,0.2@16", "0.3:saliency"),
    ],
)
def test_an_invalid_encoder_keep_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="encoder keep") as error:
        read_encoder_keep(text)
    assert "0.3@8,0.15@16" in error.value.hint and "off or auto" in error.value.hint


@pytest.mark.parametrize(
    ("text", "keep", "at"),
    [
        ("3x", 0.1, "0.3"),
        ("3x", 0.2, "0.6"),
        ("3x", 0.34, None),
        ("3x", 1.0, None),
        ("3x", None, None),
        ("0.5x", 1.0, "0.5"),
        ("3x@8,1.5x@16", 0.2, "0.6@8,0.3@16"),
        ("3x@8,1.5x@16", 0.5, "1@8,0.75@16"),
        ("5x,2.5x", 0.1, "0.5,0.25"),
        ("5x,2.5x", 0.4, None),
        ("0.3@8,0.15@16", 1.0, "0.3@8,0.15@16"),
        ("3x:states", 0.1, "0.3:states"),
    ],
)
def test_an_encoder_keep_may_be_a_multiple_of_the_keep_ratio(text: str, keep: float | None, at: str | None) -> None:
    found = EncoderKeep.read(text).at(keep)
    assert (found and str(found)) == at


def test_a_model_is_loaded_for_the_share_that_questions_keep() -> None:
    wanted = EncoderKeep.read("3x")
    assert str(load("tiny", encoder_keep=wanted, keep=0.1).backbone.encoder_keep) == "0.3"
    for keep in (0.5, None):
        assert load("tiny", encoder_keep=wanted, keep=keep).backbone.encoder_keep is None
    assert load("tiny", encoder_keep=None, keep=0.1).backbone.encoder_keep is None
    with pytest.raises(OptionError, match="keep is 2"):
        LoadOptions(keep=2)


def test_a_layer_that_the_encoder_lacks_is_refused() -> None:
    with pytest.raises(OptionError, match="2 layers"):
        thin(EncoderKeep((0.3,), (2,)))
    for wrong in ("0.3", 0.3):
        with pytest.raises(OptionError, match="EncoderKeep"):
            LoadOptions(encoder_keep=wrong)  # type: ignore[arg-type]


def test_tensors_of_a_stream_without_dropped_tokens_are_unchanged() -> None:
    stream: TokenStream = tinymodel.stream(tinymodel.backbone())
    assert stream.absent is None and stream.most_present == 1.0 and stream.before == stream.row_counts()
    found: Tensor = stream.budget(0.3)
    assert found.tolist() == [math.ceil(0.3 * int(stream.pool.sum()))]
