"""Host synchronisations of the pipeline on pretended CUDA: the complete list, with counts. A new one fails here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from echoingpixels.backbones import qwen_omni
from echoingpixels.encoder_keep import EncoderKeep
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, Reuse
from echoingpixels.reducers.registry import REDUCERS as REGISTERED
from tests.gpu.test_pipeline import QUESTIONS, reusing
from tests.support import tinymodel
from tests.support.pretended import on_cpu, on_cuda
from tests.support.record import Record

CLIP = {"report.py:wait": 1}  # at the end of encoding
CHUNK: dict[str, int] = {}  # of the vision encoder, and of the audio encoder
TOKEN = {"generation/decode.py:stream_tokens": 1}  # the token itself
QUESTION = {
    "inputs/token_stream.py:packed": 1,  # how many tokens are kept
    "inputs/token_stream.py:row_counts": 1,  # kept tokens by kind
    "inputs/token_stream.py:kept_times": 3,  # for the answer, after the last token
}
EVIDENCE = {"generation/evidence.py:evidence": 3}  # after the last token, without the gradient
WINDOWS = "backbones/pruning.py:on_cpu"
LAYER = {"backbones/qwen_omni.py:hidden via lazy_initialization": 1}  # of a static cache: how far it is filled
SIEVE = {"reducers/cs2.py:scores": 1, "backbones/qwen_omni.py:run_layers": 1}
REDUCERS: dict[tuple[str, str], dict[str, int]] = {
    ("full", "fused"): {},
    ("uniform", "fused"): {},
    ("random", "fused"): {"reducers/pick.py:rank": 1},  # an upload: numbers drawn on the CPU
    ("repeats", "fused"): {"reducers/novelty.py:_predecessor": 1},
    ("maxmin", "fused"): {},
    ("maxmin-floors", "fused"): {},
    ("diverse", "fused"): {"reducers/budget.py:parts": 1},  # number and size of the windows
    ("cs2", "fused"): SIEVE,
    ("cs2", "extractive"): SIEVE,
    ("cs2-maxmin", "extractive"): SIEVE,
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


@pytest.mark.parametrize("reuse", [None, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seconds", [2.0, 6.0, 12.0])
def test_a_clip_waits_once_however_many_chunks_it_has(
    seconds: float, dtype: torch.dtype, reuse: Reuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen_omni, "PATCHES_AT_ONCE", 240)
    monkeypatch.setattr(qwen_omni, "MEL_CHUNKS_AT_ONCE", 1)
    noise = np.random.default_rng(3).integers(0, 256, (int(2 * seconds), 140, 168, 3), dtype=np.uint8)
    with on_cuda(reusing(on_cpu(dtype), reuse, 168 * 168)) as (model, record):
        model.encode(replace(tinymodel.clip(seconds), frames=noise))
    chunks = record.count("async upload")["backbones/encoders.py:encode"]
    assert chunks == seconds / 2  # each of 2 frames' 120 patches, twice
    assert waits(record) == Counter(CLIP) + times(int(chunks), CHUNK)


@pytest.mark.parametrize("reuse", [None, 0.1])
@pytest.mark.parametrize("full", [[1], [0]], ids=["full", "windows"])  # layers with attention over the whole frame
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cells_dropped_in_the_encoder_wait_once_a_clip_and_for_windows_attended_one_by_one(
    dtype: torch.dtype, full: list[int], reuse: Reuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen_omni, "PATCHES_AT_ONCE", 240)
    noise = np.random.default_rng(3).integers(0, 256, (12, 140, 168, 3), dtype=np.uint8)
    with on_cuda(reusing(on_cpu(dtype), reuse, 168 * 168, EncoderKeep((0.3,), (1,)))) as (model, record):
        model.backbone.thinker.model.visual.fullatt_block_indexes = full
        model.encode(replace(tinymodel.clip(6.0), frames=noise))
    expected = Counter(CLIP) + Counter({"backbones/base.py:of": 1})
    if full == [0]:  # the last layer has windows, whose sizes its saliency needs too
        expected += times(3, {"backbones/pruning.py:_windows" if dtype is torch.float32 else WINDOWS: 1})
    assert waits(record) == expected


@pytest.mark.parametrize("options", [{}, {"static": True}], ids=["growing", "static"])
@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize(("reducer", "form"), REDUCERS)
def test_a_question_waits_for_what_is_listed_and_once_for_each_token(
    reducer: str, form: str, tokens: int, options: dict[str, Any]
) -> None:
    with on_cuda(endless(on_cpu(form=form))) as (model, record):
        clip = model.encode(tinymodel.clip())
        record.clear()
        chosen = question(reducer, tokens)
        clip.ask(QUESTIONS[0], replace(chosen, generate=replace(chosen.generate, **options)))
    expected = Counter(QUESTION) + Counter(REDUCERS[reducer, form]) + times(tokens, TOKEN)
    expected += Counter({} if (reducer, form) == ("cs2", "fused") else EVIDENCE)
    if options:
        expected += times(model.backbone.shape.layers, LAYER)
    assert waits(record) == expected


@pytest.mark.parametrize("reducer", ["relevance", "relevance-maxmin"])
def test_reducers_that_ask_the_decoder_wait_a_fixed_number_of_times(reducer: str) -> None:
    counts = []
    for seconds in (3.0, 6.0):
        with on_cuda(endless(on_cpu())) as (model, record):
            clip = model.encode(tinymodel.clip(seconds))
            record.clear()
            clip.ask(QUESTIONS[0], question(reducer, 2))
        counts.append(waits(record))
    assert counts[0] == counts[1]
    assert sum((counts[0] - Counter(QUESTION) - Counter(EVIDENCE) - times(2, TOKEN)).values()) <= 4


@pytest.mark.parametrize("reducer", ["seats", "fastv"])
@pytest.mark.parametrize("tokens", [1, 9])
def test_each_drop_inside_the_decoder_waits_for_the_number_of_tokens_that_are_left(reducer: str, tokens: int) -> None:
    with on_cuda(endless(on_cpu())) as (model, record):
        clip = model.encode(tinymodel.clip())
        record.clear()
        clip.ask(QUESTIONS[0], question(reducer, tokens))
        drops = REGISTERED[reducer].schedule.at(model.backbone.shape.layers, 0.3).drops
    counts = {"inputs/token_stream.py:packed": 1 + len(drops), "inputs/token_stream.py:kept_times": 3}
    reports = {"inputs/descent.py:counts_by_layer": 1}
    first = {"reducers/budget.py:parts": 1} if reducer == "seats" else {}  # the windows that diverse compares
    expected = Counter(counts) + Counter(reports) + Counter(first) + times(tokens, TOKEN)
    assert len(drops) > 0 and waits(record) == expected


def test_a_batch_waits_once_for_the_tokens_of_all_its_rows() -> None:
    counts = {}
    for tokens in (2, 8):
        with on_cuda(endless(on_cpu())) as (model, record):
            clip = model.encode(tinymodel.clip())
            record.clear()
            model.answer([(clip, text) for text in QUESTIONS], question("cs2", tokens))
        counts[tokens] = waits(record)
    assert counts[8] - counts[2] == times(6, TOKEN)


def test_decoding_uploads_nothing() -> None:
    uploads = {}
    for tokens in (2, 9):
        with on_cuda(endless(on_cpu())) as (model, record):
            clip = model.encode(tinymodel.clip())
            record.clear()
            clip.ask("aaaa", AskOptions("cs2", 0.3, GenerateOptions(tokens)))
        uploads[tokens] = record.count("upload", "async upload")
    assert uploads[9] == uploads[2]
    assert record.count("upload") == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_row_is_attended_without_a_mask(dtype: torch.dtype) -> None:
    with on_cuda(on_cpu(dtype)) as (model, record):
        model.encode(tinymodel.clip()).ask(QUESTIONS[0], question("cs2", 4))
    how = {event.what.rsplit(", ", 2)[0] for event in record.events if event.kind == "attention"}
    decoder = {"no mask, causal, gqa", "no mask, full, gqa"}
    assert how == decoder | ({"no mask, full, equal heads"} if dtype is torch.float32 else set())


def test_rows_of_one_length_are_attended_without_a_mask() -> None:
    with on_cuda(endless(on_cpu())) as (model, record):
        clip = model.encode(tinymodel.clip())
        model.answer([(clip, text) for text in ("Who?", "How?", "Why?")], question("cs2", 3))
    assert all(event.what.startswith("no mask") for event in record.events if event.kind == "attention")
