"""What only a CUDA device can show. Every skip says what it would have proved."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from echoingpixels.backbones import kernels
from echoingpixels.backbones.kernels import REPEATED, VARLEN
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from tests.support import tinymodel

DEMO = Path(__file__).parents[2] / "models/echoingpixels/assets/demo.mp4"
QUESTION = "Which object appears first?"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="no CUDA device: would prove that CUDA answers as the CPU does, unquantized, nf4 and int8; that its "
        "peak memory is the reported one; that windows in one FlashAttention call and repeated heads give the plain "
        "numbers, and that repeated heads keep memory linear",
    ),
]


@pytest.mark.parametrize("quant", ["none", "nf4", "int8"])
def test_cuda_answers_as_the_cpu_does(quant: str, tiny_model: EchoingPixels) -> None:
    clip = read_clip(DEMO)
    expected = tiny_model.ask(clip, QUESTION, keep=0.2).text
    assert load("tiny", device="cuda", quant=quant).ask(clip, QUESTION, keep=0.2).text == expected


def test_the_peak_memory_is_the_device_s() -> None:
    model = load("tiny", device="cuda")
    answer = model.ask(read_clip(DEMO), QUESTION)
    assert model.weight_bytes() < answer.report.memory_bytes.peak <= torch.cuda.max_memory_allocated()


@torch.no_grad()
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < kernels.FLASH,
    reason="no FlashAttention: would prove that windows attended in one call give the features of a call each",
)
def test_windows_attended_in_one_call_give_the_features_of_a_call_each() -> None:
    model = load("tiny", device="cuda")
    assert isinstance(model.backbone, QwenOmni)
    encoders = model.backbone.thinker.model.visual, model.backbone.thinker.model.audio_tower
    assert [encoder.config._attn_implementation for encoder in encoders] == [VARLEN, VARLEN]
    media = prepare_media(read_clip(DEMO), model.backbone.resolution)
    found = tinymodel.encode(model.backbone, media)
    for encoder in encoders:
        encoder.config._attn_implementation = "sdpa"
    expected = tinymodel.encode(model.backbone, media)
    for one, other in ((found.video, expected.video), (found.audio, expected.audio)):
        assert one is not None and other is not None
        assert torch.cosine_similarity(one.float(), other.float(), dim=-1).min() > 0.999  # bfloat16


@torch.no_grad()
def test_repeated_heads_give_the_logits_of_grouped_ones() -> None:
    on, stream = on_gpu()
    expected = on.logits(on.hidden(stream))
    kernels._register()
    on.text.set_attn_implementation(REPEATED)
    torch.testing.assert_close(on.logits(on.hidden(stream)), expected, atol=2e-2, rtol=2e-2)  # float16


@torch.no_grad()
def test_repeated_heads_keep_memory_linear() -> None:
    """SDPA without its FlashAttention kernel, as on a Turing card: twice the tokens, at most 2.5 times the memory."""
    on, _ = on_gpu()
    kernels._register()
    on.text.set_attn_implementation(REPEATED)
    peaks = []
    for tokens in (2048, 4096):
        stream = tinymodel.text_stream(on, tokens)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION):
            on.hidden(stream)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 2.5 * peaks[0]


def on_gpu() -> tuple[QwenOmni, TokenStream]:
    """The random model in float16, and a stream of text."""
    made = tinymodel.backbone()
    thinker = deepcopy(made.thinker).to("cuda", torch.float16)
    on = QwenOmni(thinker, made.tokenizer, made.name, made.resolution)
    return on, tinymodel.text_stream(on, 64)
