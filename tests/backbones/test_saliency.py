"""Encoder saliency: against explicit attention weights of the last layer, in parts of any size and in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from echoingpixels.backbones.base import Features
from echoingpixels.backbones.encoders import VisionEncoder, encode_audio, encode_cells
from echoingpixels.backbones.saliency import received
from echoingpixels.errors import ModelError
from echoingpixels.inputs.positions import AUDIO, TEXT
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.inputs.token_stream import pad
from tests.support import tinymodel
from tests.support.dense import dense

NOISE = 2e-5
GRIDS = [(1, 2, 2), (3, 4, 6), (2, 10, 14)]  # of patches; a window is 4 x 4
FULL, WINDOWED = (1,), (0,)  # the layers with full attention; the last layer is 1


def vision(full: tuple[int, ...] = FULL, kernel: str = "sdpa") -> Any:
    on = copy(tinymodel.backbone(kernel).thinker.model.visual)
    on.fullatt_block_indexes = list(full)
    return on


def audio(kernel: str = "sdpa") -> Any:
    return tinymodel.backbone(kernel).thinker.model.audio_tower


def patches(grid: tuple[int, int, int], seed: int = 4) -> Tensor:
    return torch.randn(grid[0] * grid[1] * grid[2], 1176, generator=torch.Generator().manual_seed(seed))


def mel(frames: int) -> Tensor:
    return torch.rand(128, frames, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("full", [FULL, WINDOWED])
@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_saliency_of_video_is_the_attention_received_in_the_last_layer_mean_over_patches(
    grid: tuple[int, int, int], full: tuple[int, ...], share: float
) -> None:
    on, pixels = vision(full), patches(grid)
    cells = torch.rand(len(pixels) // 4, generator=torch.Generator().manual_seed(5)) < share
    cells[0] = True
    _, weights = dense(on, pixels, grid, cells)  # (H, P, P)
    want = weights.sum(1).mean(0).view(-1, 4).mean(1)
    _, found = encode_cells(on, pixels, grid, cells)
    torch.testing.assert_close(found, want, rtol=0, atol=10 * NOISE)
    if len(want) > 1:
        assert float(want.std()) > 0.01


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("frames", [200, 399, 403, 801])
@torch.no_grad()
def test_saliency_of_audio_is_the_attention_received_in_the_last_layer_mean_over_two_places(
    frames: int, kernel: str
) -> None:
    on, given = audio(kernel), []
    hook = on.layers[-1].self_attn.register_forward_pre_hook(lambda *call: given.append(call[2]), with_kwargs=True)
    found = encode_audio(on, mel(frames)).saliency
    hook.remove()
    attention, (x,) = on.layers[-1].self_attn, [call["hidden_states"] for call in given]
    window = torch.arange(len(x)) // 100  # of 2 s
    q, k = (p(x).view(len(x), attention.num_heads, -1).transpose(0, 1) for p in (attention.q_proj, attention.k_proj))
    logits = (q @ k.transpose(1, 2) * attention.scaling).masked_fill(window[:, None] != window, -torch.inf)
    attended = F.softmax(logits, -1).sum(1).mean(0)
    want = torch.cat([part[: len(part) // 2 * 2].view(-1, 2).mean(1) for part in attended.split(100)])
    torch.testing.assert_close(found, want[: len(found)], rtol=0, atol=10 * NOISE)
    assert float(found.std()) > 0.01


@given(st.lists(st.sampled_from([1, 2, 5, 40]), min_size=1, max_size=8), st.sampled_from([1, 4, 16]))
def test_windows_of_any_lengths_give_the_attention_of_each_by_itself(lengths: list[int], size: int) -> None:
    """A window of 40 is computed in one block or in up to 40, by its share of all windows and the size of heads."""
    random = torch.Generator().manual_seed(len(lengths))
    queries, keys = torch.randn(2, sum(lengths), 3, size, generator=random)
    want = [
        (q.transpose(0, 1) @ k.permute(1, 2, 0)).softmax(-1).sum(1).mean(0)
        for q, k in zip(queries.split(lengths), keys.split(lengths), strict=True)
    ]
    found = received(queries, keys, torch.tensor([0, *lengths]).cumsum(0))
    torch.testing.assert_close(found, torch.cat(want), rtol=0, atol=NOISE)


@torch.no_grad()
def test_saliency_is_float32_also_under_autocast_and_needs_no_gradient() -> None:
    grid = GRIDS[2]
    plain = VisionEncoder(vision()).encode(patches(grid), *grid[1:]).saliency
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = VisionEncoder(vision()).encode(patches(grid), *grid[1:]).saliency
    assert half.dtype == torch.float32 and float((half - plain).abs().mean()) < 0.05
    with torch.enable_grad():
        made = encode_audio(audio(), mel(400))
    assert made.features.requires_grad and not made.saliency.requires_grad


@torch.no_grad()
def test_encoding_leaves_no_hook_even_after_an_error() -> None:
    on = vision()
    attention = on.blocks[-1].attn
    with suppress(RuntimeError):
        VisionEncoder(on).encode(torch.zeros(16, 7), 4, 4)  # patches of a wrong width
    VisionEncoder(on).encode(patches((1, 4, 4)), 4, 4)
    assert not any(module._forward_hooks for module in (attention, attention.q, attention.k))


def test_threads_that_encode_at_once_do_not_disturb_each_other() -> None:
    on, grid = vision(), GRIDS[1]

    @torch.no_grad()
    def encode(seed: int) -> Tensor:
        return VisionEncoder(on).encode(patches(grid, seed), *grid[1:]).saliency

    want = [encode(seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        for found, one in zip(pool.map(encode, [0, 1, 2, 3] * 20), want * 20, strict=True):
            assert torch.equal(found, one)


@torch.no_grad()
def test_every_token_of_a_stream_has_the_saliency_of_its_encoder_and_text_has_none() -> None:
    on = tinymodel.backbone()
    media = [prepare_media(tinymodel.clip(s, seed=i), on.resolution) for i, s in enumerate((2.0, 3.0))]
    features = [tinymodel.encode(on, one) for one in media]
    inputs = tinymodel.prompt(on, tinymodel.text(3), media[0], tinymodel.text(2), media[1])
    stream = on.embed(inputs, tuple(features))
    assert stream.saliency is not None
    for here, want in (
        (stream.kind == AUDIO, torch.cat([f.audio_saliency for f in features if f.audio_saliency is not None])),
        (stream.vision, torch.cat([f.video_saliency for f in features if f.video_saliency is not None])),
        (stream.kind == TEXT, torch.zeros(int((stream.kind == TEXT).sum()))),
    ):
        assert torch.equal(stream.saliency[here], want)
    bare = replace(features[0], audio_saliency=None)
    assert on.embed(inputs, (bare, features[1])).saliency is None


@torch.no_grad()
def test_a_reducer_of_saliency_refuses_a_clip_without_it_and_follows_it() -> None:
    model = tinymodel.model()
    streams = [tinymodel.stream(model.backbone, 4.0), tinymodel.stream(model.backbone, 3.0, seed=3)]
    with pytest.raises(ModelError, match="saliency"):
        model.select(pad([streams[0], replace(streams[1], saliency=None)]), "diverse-saliency", 0.2)
    plain, led = (model.select(streams[0], name, 0.2).keep for name in ("diverse", "diverse-saliency"))
    assert int(plain.sum()) == int(led.sum()) and not torch.equal(plain, led)
    assert streams[0].saliency is not None
    one = torch.zeros_like(streams[0].saliency)
    one[0, streams[0].pool[0].nonzero()[3]] = 100.0
    assert bool(model.select(replace(streams[0], saliency=one), "diverse-saliency", 0.05).keep[one > 0].all())


def test_features_of_no_parts_are_none() -> None:
    assert Features.of([], []) == Features(None, None) and Features.of([], []).has_saliency
