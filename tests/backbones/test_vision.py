"""The towers over a part of a clip: against transformers' own where all is there, and dense attention where not."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from echoingpixels.backbones.audio import SILENCE, hear
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.backbones.vision import Sight, attending, see_cells, window
from echoingpixels.errors import OptionError
from echoingpixels.inputs.prepare import audio_tokens
from echoingpixels.media.clip import Clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions, read_encode
from tests.support import tinymodel

NOISE = 2e-5
KERNELS = ["sdpa", "eager"]  # others need CUDA
GRIDS = [(1, 2, 2), (3, 4, 6), (2, 10, 14)]


def tower(kernel: str = "sdpa") -> Any:
    return tinymodel.backbone(kernel).thinker.model.visual


def patches(grid: tuple[int, int, int]) -> Tensor:
    return torch.randn(grid[0] * grid[1] * grid[2], 1176, generator=torch.Generator().manual_seed(4))


def some_cells(grid: tuple[int, int, int], share: float) -> Tensor:
    """A share of the cells, none of the first step's, as none may be left of a frame."""
    cells = torch.rand(grid[0], grid[1] * grid[2] // 4, generator=torch.Generator().manual_seed(5)) < share
    cells[0] = False
    return cells.flatten()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_all_cells_are_seen_as_by_the_tower_itself_bit_for_bit(kernel: str, grid: tuple[int, int, int]) -> None:
    on, pixels = tower(kernel), patches(grid)
    want = on(pixels, grid_thw=torch.tensor([grid])).pooler_output
    assert torch.equal(see_cells(on, pixels, grid, torch.ones(len(want), dtype=torch.bool)), want)
    seen, fresh = Sight(on).see(pixels, *grid[1:])
    assert torch.equal(seen, want) and bool(fresh.all())


def dense(on: Any, pixels: Tensor, grid: tuple[int, int, int], cells: Tensor) -> Tensor:
    """The same cells with one mask over all pairs of their patches, in the order in which they come."""
    cell = torch.arange(len(pixels)) // 4
    columns, each = grid[2] // 2, grid[1] * grid[2] // 4
    step, row, column = cell // each, cell % each // columns, cell % columns
    within = torch.arange(len(pixels)) % 4
    wide = on.window_size // 28
    window = (step * 1000 + row // wide) * 1000 + column // wide
    there = cells[cell]
    places = torch.stack([2 * row + within // 2, 2 * column + within % 2], 1)[there]
    hidden = on.patch_embed(pixels[there])
    rotary = on.rotary_pos_emb(hidden, places)
    for i, block in enumerate(on.blocks):
        group = (step if i in on.fullatt_block_indexes else window)[there]
        hidden = hidden + attend(block.attn, block.norm1(hidden), group[:, None] == group[None], rotary)
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged: Tensor = on.merger(hidden)
    return merged


def attend(attention: Any, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    def heads(linear: Any) -> Tensor:
        return linear(x).view(len(x), attention.num_heads, -1).transpose(0, 1)  # type: ignore[no-any-return]

    def turned(y: Tensor) -> Tensor:
        half = y.shape[-1] // 2
        return y * rotary[0] + torch.cat([-y[..., half:], y[..., :half]], -1) * rotary[1]

    q, k, v = turned(heads(attention.q)), turned(heads(attention.k)), heads(attention.v)
    weights = F.softmax((q @ k.transpose(1, 2) * attention.scaling).masked_fill(~mask, -torch.inf), -1)
    out: Tensor = attention.proj((weights @ v).transpose(0, 1).reshape(len(x), -1))
    return out


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("grid", GRIDS[1:])
@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_some_cells_see_one_another_as_under_one_mask_over_all_pairs(
    kernel: str, grid: tuple[int, int, int], share: float
) -> None:
    on, pixels, cells = tower(kernel), patches(grid), some_cells(grid, share)
    assert bool(cells.any()) and not bool(cells.all())
    want = dense(on, pixels, grid, cells)
    torch.testing.assert_close(see_cells(on, pixels, grid, cells), want, rtol=0, atol=10 * NOISE)


@torch.no_grad()
def test_no_cells_have_no_features() -> None:
    grid = (1, 4, 4)
    assert see_cells(tower(), patches(grid), grid, torch.zeros(4, dtype=torch.bool)).shape == (0, tinymodel.WIDTH)


def walk(steps: int) -> Tensor:
    """Steps of 4 x 6 patches in which a cell now and then jumps."""
    random = torch.Generator().manual_seed(6)
    jumps = torch.randn(steps, 6, 4 * 1176, generator=random) * (torch.rand(steps, 6, 1, generator=random) < 0.3)
    jumps[0] = torch.randn(6, 4 * 1176, generator=random)
    return jumps.cumsum(0).reshape(-1, 1176)


@pytest.mark.parametrize("cuts", [(4, 2, 1), (1, 1, 5), (1, 6)])
@torch.no_grad()
def test_cells_repeat_across_the_borders_of_parts(cuts: tuple[int, ...]) -> None:
    on, pixels = tower(), walk(7)
    whole, fresh = Sight(on, 0.0).see(pixels, 4, 6)
    assert 0 < int(fresh[6:].sum()) < 36
    sight, made = Sight(on, 0.0), []
    for part in pixels.split([24 * n for n in cuts]):
        made.append(sight.see(part, 4, 6))
    assert torch.equal(torch.cat([new for _, new in made]), fresh)
    torch.testing.assert_close(torch.cat([part for part, _ in made]), whole, rtol=0, atol=NOISE)


@torch.no_grad()
def test_a_cell_that_repeats_has_the_features_of_the_one_it_repeats() -> None:
    features, fresh = Sight(tower(), 0.0).see(walk(7), 4, 6)
    by_step, new = features.view(7, 6, -1), fresh.view(7, 6)
    for step in range(1, 7):
        same = (by_step[step] == by_step[step - 1]).all(1)
        assert torch.equal(same, ~new[step])


def sound(mel_frames: int, silent: tuple[int, ...]) -> Tensor:
    """Noise of that length with some windows of 2 s silent."""
    mel = torch.rand(128, mel_frames, generator=torch.Generator().manual_seed(7))
    for one in silent:
        mel[:, 200 * one : 200 * (one + 1)] = -0.6
    return mel


@pytest.mark.parametrize("mel_frames", [200, 800, 801, 803, 999])
@torch.no_grad()
def test_sound_is_heard_as_by_the_tower_itself_bit_for_bit(mel_frames: int) -> None:
    on = tinymodel.backbone().thinker.model.audio_tower
    for once, silent in ((False, (0, 2)), (True, ()), (True, (0,))):
        mel = sound(mel_frames, silent)
        want = on(mel, feature_lens=torch.tensor([mel_frames])).last_hidden_state
        features, fresh = hear(on, mel, once)
        assert torch.equal(features, want) and bool(fresh.all()) and len(want) == audio_tokens(mel_frames)


@pytest.mark.parametrize("mel_frames", [800, 801, 803, 999])
@torch.no_grad()
def test_silence_is_encoded_once_and_sounds_as_it_does_encoded_every_time(mel_frames: int) -> None:
    on, mel = tinymodel.backbone().thinker.model.audio_tower, sound(mel_frames, (0, 2, 3))
    want = on(mel, feature_lens=torch.tensor([mel_frames])).last_hidden_state
    features, fresh = hear(on, mel, once=True)
    torch.testing.assert_close(features, want, rtol=0, atol=NOISE)
    assert fresh.tolist() == [i < 100 or i >= 200 for i in range(len(want))]


@torch.no_grad()
def test_one_faint_band_is_not_silence() -> None:
    on, mel = tinymodel.backbone().thinker.model.audio_tower, sound(800, (0, 1, 2, 3))
    mel[3, 250] = SILENCE + 0.01
    assert hear(on, mel, once=True)[1].view(4, 50).all(1).tolist() == [True, True, False, False]


def still(seconds: float = 4.0) -> Clip:
    """A clip in which one frame stays, and whose second half is silent."""
    clip = tinymodel.clip(seconds)
    audio = np.concatenate([clip.audio[: int(7_900 * seconds)], np.zeros(int(24_100 * seconds), np.float32)])
    return replace(clip, frames=np.repeat(clip.frames[:1], len(clip.frames), 0), audio=audio, duration=2 * seconds)


def encoding(how: str) -> QwenOmni:
    """The random thinker, encoding that way."""
    on = tinymodel.backbone()
    return QwenOmni(on.thinker, on.tokenizer, on.name, on.resolution, read_encode(how))


def test_the_report_says_what_was_encoded_and_counts_only_that() -> None:
    plain, options = tinymodel.model(), AskOptions("cs2", 0.5, GenerateOptions(2))
    on = tinymodel.backbone()
    less = EchoingPixels(encoding("repeats"), plain.sieve)
    all_of, few = plain.look(still()), less.look(still())
    assert few.features.anew() == {"video": 6, "audio": 100}
    before, after = (one.answer("Who?", options).report for one in (all_of, few))
    assert before.encoded == {"video": 24, "audio": 200, "image": 0}
    assert after.encoded == {"video": 6, "audio": 100, "image": 0} and after.tokens == before.tokens
    saved = on.tower_flops(all_of.media) - on.tower_flops(few.media, few.features)
    assert before.flops["reduced"] - after.flops["reduced"] == pytest.approx(saved)
    assert on.tower_flops(few.media, few.features) < 0.6 * on.tower_flops(few.media)


def test_with_no_repeats_and_no_silence_answers_are_the_same() -> None:
    plain, options = tinymodel.model(), AskOptions("cs2", 0.2, GenerateOptions(4))
    less = EchoingPixels(encoding("repeats:0"), plain.sieve)
    one, other = plain.look(tinymodel.clip()), less.look(tinymodel.clip())
    assert torch.equal(one.features.video, other.features.video) and other.features.anew() == {}
    assert torch.equal(one.features.audio, other.features.audio)
    assert one.answer("Who?", options).token_ids == other.answer("Who?", options).token_ids


@pytest.mark.parametrize("text", ["all", "plain:1", "repeats:", "repeats:x", "repeats:-1", "repeats:nan", ""])
def test_a_way_to_encode_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="plain"):
        LoadOptions(encode=text)


def test_what_attends_together_is_a_window_or_where_no_layer_has_windows_the_frame() -> None:
    on = copy(tower())
    on.fullatt_block_indexes = []
    assert attending(on) == window(on) == on.window_size // 28
    on.fullatt_block_indexes = range(len(on.blocks))
    assert attending(on) > 10_000
