"""The encoders over part of a clip: against transformers' where nothing is reused, else against dense attention."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echoingpixels.backbones.encoders import SILENCE, VisionEncoder, attending, encode_audio, encode_cells, window
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.errors import OptionError
from echoingpixels.inputs.prepare import audio_tokens
from echoingpixels.media.clip import Clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions, Reuse, read_reuse
from echoingpixels.report import TokenCounts
from tests.support import tinymodel
from tests.support.dense import dense

NOISE = 2e-5
KERNELS = ["sdpa", "eager"]  # others need CUDA
GRIDS = [(1, 2, 2), (3, 4, 6), (2, 10, 14)]


def vision(kernel: str = "sdpa") -> Any:
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
def test_all_cells_are_encoded_as_by_the_encoder_itself_bit_for_bit(kernel: str, grid: tuple[int, int, int]) -> None:
    on, pixels = vision(kernel), patches(grid)
    want = on(pixels, grid_thw=torch.tensor([grid])).pooler_output
    assert torch.equal(encode_cells(on, pixels, grid, torch.ones(len(want), dtype=torch.bool))[0], want)
    made = VisionEncoder(on).encode(pixels, *grid[1:])
    assert torch.equal(made.features, want) and bool(made.new.all())


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("grid", GRIDS[1:])
@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_some_cells_attend_as_under_one_mask_over_all_pairs(
    kernel: str, grid: tuple[int, int, int], share: float
) -> None:
    on, pixels, cells = vision(kernel), patches(grid), some_cells(grid, share)
    assert bool(cells.any()) and not bool(cells.all())
    want, _ = dense(on, pixels, grid, cells)
    torch.testing.assert_close(encode_cells(on, pixels, grid, cells)[0], want, rtol=0, atol=10 * NOISE)


@torch.no_grad()
def test_no_cells_have_no_features() -> None:
    grid = (1, 4, 4)
    features, saliency = encode_cells(vision(), patches(grid), grid, torch.zeros(4, dtype=torch.bool))
    assert features.shape == (0, tinymodel.WIDTH) and saliency.shape == (0,)


def walk(steps: int) -> Tensor:
    """Steps of 4 x 6 patches in which a cell now and then jumps."""
    random = torch.Generator().manual_seed(6)
    jumps = torch.randn(steps, 6, 4 * 1176, generator=random) * (torch.rand(steps, 6, 1, generator=random) < 0.3)
    jumps[0] = torch.randn(6, 4 * 1176, generator=random)
    return jumps.cumsum(0).reshape(-1, 1176)


@pytest.mark.parametrize("cuts", [(4, 2, 1), (1, 1, 5), (1, 6)])
@torch.no_grad()
def test_features_are_reused_across_the_borders_of_parts(cuts: tuple[int, ...]) -> None:
    on, pixels = vision(), walk(7)
    whole = VisionEncoder(on, 0.0).encode(pixels, 4, 6)
    assert 0 < int(whole.new[6:].sum()) < 36
    encoder, made = VisionEncoder(on, 0.0), []
    for part in pixels.split([24 * n for n in cuts]):
        made.append(encoder.encode(part, 4, 6))
    assert torch.equal(torch.cat([part.new for part in made]), whole.new)
    for name in ("features", "saliency"):
        joined = torch.cat([getattr(part, name) for part in made])
        torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=NOISE)


@torch.no_grad()
def test_an_unchanged_cell_has_the_features_and_the_saliency_of_the_step_before() -> None:
    made = VisionEncoder(vision(), 0.0).encode(walk(7), 4, 6)
    by_step, new = torch.cat([made.features, made.saliency[:, None]], 1).view(7, 6, -1), made.new.view(7, 6)
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
def test_audio_is_encoded_as_by_the_encoder_itself_bit_for_bit(mel_frames: int) -> None:
    on = tinymodel.backbone().thinker.model.audio_tower
    for once, silent in ((False, (0, 2)), (True, ()), (True, (0,))):
        mel = sound(mel_frames, silent)
        want = on(mel, feature_lens=torch.tensor([mel_frames])).last_hidden_state
        made = encode_audio(on, mel, once)
        assert torch.equal(made.features, want) and bool(made.new.all()) and len(want) == audio_tokens(mel_frames)


@pytest.mark.parametrize("mel_frames", [800, 801, 803, 999])
@torch.no_grad()
def test_silence_encoded_once_has_the_features_of_silence_encoded_every_time(mel_frames: int) -> None:
    on, mel = tinymodel.backbone().thinker.model.audio_tower, sound(mel_frames, (0, 2, 3))
    want = on(mel, feature_lens=torch.tensor([mel_frames])).last_hidden_state
    made, plain = encode_audio(on, mel, silence_once=True), encode_audio(on, mel)
    torch.testing.assert_close(made.features, want, rtol=0, atol=NOISE)
    torch.testing.assert_close(made.saliency, plain.saliency, rtol=0, atol=NOISE)
    assert made.new.tolist() == [i < 100 or i >= 200 for i in range(len(want))]


@torch.no_grad()
def test_one_faint_band_is_not_silence() -> None:
    on, mel = tinymodel.backbone().thinker.model.audio_tower, sound(800, (0, 1, 2, 3))
    mel[3, 250] = SILENCE + 0.01
    assert encode_audio(on, mel, silence_once=True).new.view(4, 50).all(1).tolist() == [True, True, False, False]


def still(seconds: float = 4.0) -> Clip:
    """A clip in which one frame stays, and whose second half is silent."""
    clip = tinymodel.clip(seconds)
    audio = np.concatenate([clip.audio[: int(7_900 * seconds)], np.zeros(int(24_100 * seconds), np.float32)])
    return replace(clip, frames=np.repeat(clip.frames[:1], len(clip.frames), 0), audio=audio, duration=2 * seconds)


def reusing(reuse: Reuse) -> QwenOmni:
    """The random thinker with a reuse threshold."""
    on = tinymodel.backbone()
    return QwenOmni(on.thinker, on.tokenizer, on.name, on.resolution, reuse=reuse)


def test_the_report_counts_the_encoded_tokens_and_their_flops_alone() -> None:
    plain, options = tinymodel.model(), AskOptions("cs2", 0.5, GenerateOptions(2))
    on = tinymodel.backbone()
    less = EchoingPixels(reusing(0.1), plain.sieve)
    all_of, few = plain.encode(still()), less.encode(still())
    assert few.features.encoded(image=False) == TokenCounts(video=6, audio=100)
    before, after = (one.ask("Who?", options).report for one in (all_of, few))
    assert before.encoded == TokenCounts(video=24, audio=200)
    assert after.encoded == TokenCounts(video=6, audio=100) and after.tokens == before.tokens
    saved = on.encoder_flops(all_of.media) - on.encoder_flops(few.media, few.features)
    assert before.flops.reduced - after.flops.reduced == pytest.approx(saved)
    assert on.encoder_flops(few.media, few.features) < 0.6 * on.encoder_flops(few.media)


def test_without_unchanged_cells_and_silence_answers_are_the_same() -> None:
    plain, options = tinymodel.model(), AskOptions("cs2", 0.2, GenerateOptions(4))
    less = EchoingPixels(reusing(0.0), plain.sieve)
    one, other = plain.encode(tinymodel.clip()), less.encode(tinymodel.clip())
    assert torch.equal(one.features.video, other.features.video) and other.features.new_video is None
    assert torch.equal(one.features.audio, other.features.audio) and other.features.new_audio is None
    assert one.ask("Who?", options).token_ids == other.ask("Who?", options).token_ids


@pytest.mark.parametrize(("text", "threshold"), [("off", None), ("auto", "auto"), ("0", 0.0), (" 0.1 ", 0.1)])
def test_a_reuse_threshold_is_read_from_text(text: str, threshold: Any) -> None:
    assert read_reuse(text) == threshold and LoadOptions(reuse=threshold).reuse == threshold


@pytest.mark.parametrize("text", ["all", "off:1", "repeats", "x", "-1", "nan", "inf", ""])
def test_an_invalid_reuse_threshold_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="reuse") as error:
        read_reuse(text)
    assert "0.1" in error.value.hint and "off" in error.value.hint and "auto" in error.value.hint


@pytest.mark.parametrize("reuse", [-1.0, float("nan"), float("inf"), "off", "0.1"])
def test_load_refuses_an_invalid_reuse_threshold(reuse: Any) -> None:
    with pytest.raises(OptionError, match="reuse"):
        LoadOptions(reuse=reuse)


def test_cells_attend_within_a_window_or_where_no_layer_has_windows_within_the_frame() -> None:
    on = copy(vision())
    on.fullatt_block_indexes = []
    assert attending(on) == window(on) == on.window_size // 28
    on.fullatt_block_indexes = range(len(on.blocks))
    assert attending(on) > 10_000
