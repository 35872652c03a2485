"""What only a CUDA device can show. Every skip says what it would have proved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from echoingpixels.loading import load
from echoingpixels.media import read_clip

DEMO = Path(__file__).parent.parent / "models/echoingpixels/assets/demo.mp4"
QUESTION = "Which object appears first?"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="no CUDA device: would prove that CUDA answers as the CPU does, unquantized, nf4 and int8, and that its "
        "peak memory is what is reported",
    ),
]


@pytest.mark.parametrize("quant", ["none", "nf4", "int8"])
def test_cuda_answers_as_the_cpu_does(quant: str) -> None:
    clip = read_clip(DEMO)
    expected = load("tiny", device="cpu").ask(clip, QUESTION, keep=0.2).text
    assert load("tiny", device="cuda", quant=quant).ask(clip, QUESTION, keep=0.2).text == expected


def test_the_peak_memory_is_the_device_s() -> None:
    model = load("tiny", device="cuda")
    answer = model.ask(read_clip(DEMO), QUESTION)
    assert model.weight_bytes() < answer.report.memory_bytes["peak"] <= torch.cuda.max_memory_allocated()
