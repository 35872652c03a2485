"""Host synchronisations of the pipeline on pretended CUDA: the complete list, with counts. A new one fails here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from echoingpixels.backbones import qwen_omni
from echoingpixels.batched import answers, ask
from echoingpixels.datasets.questions import Row
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.report import Stopwatch
from tests.gpu.test_pipeline import DEMO, QUESTIONS, encoded
from tests.support import tinymodel
from tests.support.pretended import on_cpu, on_cuda
from tests.support.record import Record

CLIP = {"report.py:wait": 1}  # at the end of encoding
CHUNK: dict[str, int] = {}  # of the vision encoder, and of the audio encoder
TOKEN = {"generation/decode.py:stream_tokens": 1}  # the token itself
QUESTION = {
    "inputs/stream.py:packed": 1,  # how many tokens are kept
    "inputs/stream.py:row_counts": 2,  # tokens by kind, before and after
    "inputs/stream.py:moments": 3,  # for the report, after the last token
    "encoded_clip.py:_stream": 1,  # tokens that compete, for the FLOP estimate
    "model.py:chunks": 1,  # the last position, for a warning
}
LAYER = {"backbones/qwen_omni.py:hidden via lazy_initialization": 1}  # of a static cache: how far it is filled
REDUCERS: dict[tuple[str, str], dict[str, int]] = {
    ("full", "fused"): {},
    ("uniform", "fused"): {},
    ("random", "fused"): {"reducers/basic.py:random": 1},  # an upload: numbers drawn on the CPU
    ("repeats", "fused"): {"reducers/basic.py:_neighbour": 1},
    ("cs2", "fused"): {"reducers/cs2.py:forward": 1, "backbones/qwen_omni.py:run_layers": 1},
    ("cs2", "extractive"): {"reducers/cs2.py:forward": 1, "backbones/qwen_omni.py:run_layers": 1},
}


def question(reducer: str, tokens: int) -> AskOptions:
    return AskOptions(reducer, 0.3, GenerateOptions(tokens))


def waits(record: Record) -> Counter[str]:
    """Synchronisations, and uploads for which the host waits."""
    return record.count("sync", "upload")


def endless(model: EchoingPixels) -> EchoingPixels:
    """The model without tokens that end an answer."""
    model.backbone.stop_ids = frozenset()
    return model


def times(n: int, counts: dict[str, int]) -> Counter[str]:
    return Counter({place: n * count for place, count in counts.items()})


@pytest.mark.parametrize("how", ["plain", "repeats"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seconds", [2.0, 6.0, 12.0])
def test_a_clip_waits_once_however_many_chunks_it_has(
    seconds: float, dtype: torch.dtype, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen_omni, "PATCHES_AT_ONCE", 240)
    monkeypatch.setattr(qwen_omni, "MEL_CHUNKS_AT_ONCE", 1)
    noise = np.random.default_rng(3).integers(0, 256, (int(2 * seconds), 140, 168, 3), dtype=np.uint8)
    with on_cuda(encoded(on_cpu(dtype), how, 168 * 168)) as (model, record):
        model.look(replace(tinymodel.clip(seconds), frames=noise))
    chunks = record.count("async upload")["backbones/vision.py:see"]
    assert chunks == seconds / 2  # each of 2 frames' 120 patches, twice
    assert waits(record) == Counter(CLIP) + times(int(chunks), CHUNK)


@pytest.mark.parametrize("options", [{}, {"static": True}], ids=["growing", "static"])
@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize(("reducer", "form"), REDUCERS)
def test_a_question_waits_for_what_is_listed_and_once_for_each_token(
    reducer: str, form: str, tokens: int, options: dict[str, Any]
) -> None:
    with on_cuda(endless(on_cpu(form=form))) as (model, record):
        looked = model.look(tinymodel.clip())
        record.clear()
        chosen = question(reducer, tokens)
        looked.answer(QUESTIONS[0], replace(chosen, generate=replace(chosen.generate, **options)))
    expected = Counter(QUESTION) + Counter(REDUCERS[reducer, form]) + times(tokens, TOKEN)
    if options:
        expected += times(model.backbone.shape.layers, LAYER)
    assert waits(record) == expected


@pytest.mark.parametrize("reducer", ["relevance", "fastv"])
def test_reducers_that_ask_the_decoder_wait_a_fixed_number_of_times(reducer: str) -> None:
    counts = []
    for seconds in (3.0, 6.0):
        with on_cuda(endless(on_cpu())) as (model, record):
            looked = model.look(tinymodel.clip(seconds))
            record.clear()
            looked.answer(QUESTIONS[0], question(reducer, 2))
        counts.append(waits(record))
    assert counts[0] == counts[1]
    assert sum((counts[0] - Counter(QUESTION) - times(2, TOKEN)).values()) <= 6


def test_a_batch_waits_once_for_the_tokens_of_all_its_rows() -> None:
    counts = {}
    for tokens in (2, 8):
        with on_cuda(endless(on_cpu())) as (model, record):
            rows = [Row("a", DEMO, text, "cat", "who", "listen") for text in QUESTIONS]
            batch = ask(model.look(tinymodel.clip()), rows)
            record.clear()
            answers(model, batch, question("cs2", tokens), Stopwatch(model.backbone.device))
        counts[tokens] = waits(record)
    assert counts[8] - counts[2] == times(6, TOKEN)


@pytest.mark.parametrize("lookup", [0, 3])
def test_decoding_uploads_nothing_but_guesses(lookup: int) -> None:
    uploads = {}
    for tokens in (2, 9):
        with on_cuda(endless(on_cpu())) as (model, record):
            looked = model.look(tinymodel.clip())
            record.clear()
            looked.answer("aaaa", AskOptions("cs2", 0.3, GenerateOptions(tokens, lookup=lookup)))
        uploads[tokens] = record.count("upload", "async upload")
    assert set(uploads[9] - uploads[2]) == ({"generation/decode.py:stream_tokens"} if lookup else set())
    assert record.count("upload") == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_row_is_attended_without_a_mask(dtype: torch.dtype) -> None:
    with on_cuda(on_cpu(dtype)) as (model, record):
        model.look(tinymodel.clip()).answer(QUESTIONS[0], question("cs2", 4))
    how = {event.what.rsplit(", ", 2)[0] for event in record.events if event.kind == "attention"}
    decoder = {"no mask, causal, gqa", "no mask, full, gqa"}
    assert how == decoder | ({"no mask, full, equal heads"} if dtype is torch.float32 else set())


def test_rows_of_one_length_are_attended_without_a_mask() -> None:
    with on_cuda(endless(on_cpu())) as (model, record):
        rows = [Row("a", DEMO, text, "cat", "who", "listen") for text in ("Who?", "How?", "Why?")]
        batch = ask(model.look(tinymodel.clip()), rows)
        answers(model, batch, question("cs2", 3), Stopwatch(model.backbone.device))
    assert all(event.what.startswith("no mask") for event in record.events if event.kind == "attention")
