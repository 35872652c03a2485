"""Which attention functions a device takes, and each against the plain one."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from echoingpixels.backbones import kernels
from echoingpixels.backbones.kernels import REPEATED, VARLEN, choose_kernels, repeated
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.inputs.token_stream import pad
from echoingpixels.options import AskOptions, GenerateOptions
from tests.support import tinymodel
from tests.support.pretended import on_cpu, on_cuda, slow_varlen_attn

HALVES = (torch.float16, torch.bfloat16)


def chosen(on: Any) -> tuple[str, str, str]:
    """The attention functions of a thinker's vision encoder, audio encoder and decoder."""
    model = on.thinker.model
    parts = (model.visual, model.audio_tower, model.language_model)
    return tuple(part.config._attn_implementation for part in parts)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        ((7, 0), torch.float16, ("sdpa", "sdpa", REPEATED)),
        ((7, 5), torch.bfloat16, ("sdpa", "sdpa", REPEATED)),
        ((8, 0), torch.float32, ("sdpa", "sdpa", "sdpa")),
        ((8, 0), torch.float16, (VARLEN, VARLEN, "sdpa")),
        ((9, 0), torch.bfloat16, (VARLEN, VARLEN, "sdpa")),
        ((12, 0), torch.bfloat16, (VARLEN, VARLEN, "sdpa")),
    ],
)
def test_attention_is_chosen_by_capability_and_dtype(
    capability: tuple[int, int], dtype: torch.dtype, expected: tuple[str, str, str]
) -> None:
    with on_cuda(on_cpu(dtype), capability) as (model, _):
        assert chosen(model.backbone) == expected


def test_a_cpu_keeps_the_plain_attention() -> None:
    assert chosen(on_cpu(torch.bfloat16).backbone) == ("sdpa", "sdpa", "sdpa")


def test_head_sizes_that_flash_attention_lacks_keep_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_cpu(torch.bfloat16)
    assert isinstance(model.backbone, QwenOmni)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    choose_kernels(model.backbone.thinker, torch.device("cuda:0"), torch.bfloat16)
    assert chosen(model.backbone) == ("sdpa", VARLEN, "sdpa")  # of 12 and 8


def test_the_slow_varlen_attention_takes_what_the_real_one_takes() -> None:
    real = inspect.signature(varlen.varlen_attn).parameters
    ours = inspect.signature(slow_varlen_attn).parameters
    assert list(real)[: len(ours)] == list(ours)
    rest = list(real.values())[len(ours) :]
    assert all(parameter.default is not parameter.empty for parameter in rest)


@torch.no_grad()
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_windows_attended_in_one_call_give_the_features_of_a_call_each(dtype: torch.dtype) -> None:
    plain = on_cpu(dtype)
    media = prepare_media(tinymodel.clip(), plain.backbone.resolution)
    expected = tinymodel.encode(plain.backbone, media)
    with on_cuda(plain) as (model, record):
        found = tinymodel.encode(model.backbone, media)
        assert found.video is not None and found.audio is not None
        video, audio = found.video.cpu(), found.audio.cpu()
    assert expected.video is not None and expected.audio is not None
    assert torch.equal(video, expected.video) and torch.equal(audio, expected.audio)
    assert record.count("attention") == {}  # not one call of SDPA


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("n", "masked"), [(1, False), (1, True), (5, False), (5, True), (9, False)])
def test_repeated_heads_attend_as_grouped_ones(n: int, masked: bool, groups: int, causal: bool) -> None:
    torch.manual_seed(0)
    rows, heads, size, places = 2, 4, 8, 9
    q = torch.randn(rows, heads, n, size)
    k, v = (torch.randn(rows, heads // groups, places if masked or n == 1 else n, size) for _ in range(2))
    mask = torch.rand(rows, 1, n, places) < 0.7 if masked else None
    if mask is not None:
        mask[..., 0] = True
    module = SimpleNamespace(num_key_value_groups=groups, is_causal=causal)
    expected, _ = sdpa_attention_forward(module, q, k, v, mask, scaling=0.3)
    found, _ = repeated(module, q, k, v, mask, scaling=0.3)
    assert found.shape == (rows, n, heads, size)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_a_decoder_with_repeated_heads_gives_the_plain_logits(padded: bool) -> None:
    on = on_cpu().backbone
    assert isinstance(on, QwenOmni)
    streams = [tinymodel.stream(on), tinymodel.text_stream(on)]
    stream = pad(streams) if padded else streams[0]
    expected = on.logits(on.hidden(stream)[:, -1])
    kernels._register()
    on.text.set_attn_implementation(REPEATED)
    torch.testing.assert_close(on.logits(on.hidden(stream)[:, -1]), expected)


def test_a_gpu_before_flash_attention_never_sees_grouped_heads_nor_a_mask() -> None:
    with on_cuda(on_cpu(torch.float16), (7, 5)) as (model, record):
        model.encode(tinymodel.clip()).ask("Who?", AskOptions("cs2", 0.3, GenerateOptions(4)))
    found = {event.what.rsplit(", ", 2)[0] for event in record.events if event.kind == "attention"}
    assert found == {"no mask, causal, equal heads", "no mask, full, equal heads"}
