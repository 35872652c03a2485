"""Host synchronisations of the pipeline on pretended CUDA: the complete list, with counts. A new one fails here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from echoingpixels.backbones import qwen_omni
from echoingpixels.generation import decode as generate
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, Reuse
from echoingpixels.options.encoder_keep import EncoderKeep
from echoingpixels.reducers import chunked_scoring as windows
from echoingpixels.reducers.registry import REDUCERS as REGISTERED
from tests.gpu.test_pipeline import QUESTIONS, reusing
from tests.support import tinymodel
from tests.support.pretended import on_cpu, on_cuda
from tests.support.record import Record

CLIP = {"report.py:wait": 1}  # at the end of encoding
CHUNK: dict[str, int] = {}  # of the vision encoder, and of the audio encoder
TOKEN = {"generation/decode.py:stream_tokens": 1}  # the token itself
QUESTION = {  # all of it after the last token, for the answer
    "inputs/token_stream.py:row_counts": 1,  # kept tokens by kind
    "inputs/token_stream.py:kept_times": 3,
}
EVIDENCE = {"generation/evidence.py:evidence": 3}  # after the last token, without the gradient
WINDOWS = "backbones/pruning.py:on_cpu"
WINDOWED = {"reducers/budget.py:parts": 1, "inputs/token_stream.py:counted": 1}  # size of the windows; kept tokens
REDUCERS: dict[tuple[str, str], dict[str, int]] = {  # before the first token
    ("full", "fused"): {},
    ("uniform", "fused"): {},
    ("random", "fused"): {},
    ("repeats", "fused"): {},
    ("maxmin", "fused"): {},
    ("maxmin-floors", "fused"): {},
    ("diverse", "fused"): WINDOWED,
    ("relevance", "fused"): {"inputs/token_stream.py:packed": 1},  # how many words the question has
    ("relevance-maxmin", "fused"): {"inputs/token_stream.py:packed": 1},
    ("fastv", "fused"): {},
    ("cs2", "fused"): {},
    ("cs2", "extractive"): {},
    ("cs2-maxmin", "extractive"): {},
}
GROWING = [(reducer, form, False) for reducer, form in REDUCERS]
STATIC = [(reducer, form, True) for reducer, form in REDUCERS if reducer != "fastv"]  # whose cache has to grow


def question(reducer: str, tokens: int) -> AskOptions:
    return AskOptions(reducer, 0.3, GenerateOptions(tokens))


def waits(record: Record) -> Counter[str]:
    """Synchronisations, and uploads for which the host waits."""
    return record.count("sync", "upload")


def before_the_first_token(record: Record) -> Counter[str]:
    """The same of the events before the host reads the first token."""
    waited = [event for event in record.events if event.kind in ("sync", "upload")]
    places = [event.place for event in waited]
    return Counter(places[: places.index(next(iter(TOKEN)))])


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


@pytest.mark.parametrize(("reducer", "form", "static"), GROWING + STATIC)
def test_between_the_encoders_and_the_first_token_nothing_waits_but_what_is_listed(
    reducer: str, form: str, static: bool
) -> None:
    with on_cuda(endless(on_cpu(form=form))) as (model, record):
        clip = model.encode(tinymodel.clip())
        record.clear()
        chosen = question(reducer, 2)
        clip.ask(QUESTIONS[0], replace(chosen, generate=replace(chosen.generate, static=static)))
    assert before_the_first_token(record) == REDUCERS[reducer, form]


@pytest.mark.parametrize("masked", [generate.MASKED, 1], ids=["padded", "by equal length"])
@pytest.mark.parametrize(("reducer", "form"), REDUCERS)
def test_nor_does_anything_in_a_batch(reducer: str, form: str, masked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "MASKED", masked)
    with on_cuda(endless(on_cpu(form=form))) as (model, record):
        encoded = [model.encode(tinymodel.clip(seconds)) for seconds in (2.0, 4.0)]
        record.clear()
        asked = [(clip, text) for clip in encoded for text in QUESTIONS]
        model.answer(asked, question(reducer, 2), reuse_prefix=False)
    assert before_the_first_token(record) == REDUCERS[reducer, form]


@pytest.mark.parametrize("reducer", ["cs2", "maxmin-floors"])
def test_nor_does_anything_where_the_encoder_drops_cells(reducer: str) -> None:
    with on_cuda(endless(reusing(on_cpu(), None, keep=EncoderKeep((0.3,), (1,))))) as (model, record):
        clip = model.encode(tinymodel.clip())
        assert clip.absent > 0
        record.clear()
        clip.ask(QUESTIONS[0], question(reducer, 2))
    assert before_the_first_token(record) == {}


def test_nor_does_anything_in_a_long_clip_scored_by_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "AT_ONCE", 60)
    monkeypatch.setattr(windows, "WINDOW", 40)
    with on_cuda(endless(on_cpu(form="extractive"))) as (model, record):
        clip = model.encode(tinymodel.clip(6.0))
        record.clear()
        clip.ask(QUESTIONS[0], question("cs2-maxmin", 2))
    assert before_the_first_token(record) == {}


def test_nor_does_anything_before_a_question_that_continues_a_prefix() -> None:
    with on_cuda(endless(on_cpu())) as (model, record):
        clip = model.encode(tinymodel.clip())
        clip.ask(QUESTIONS[0], question("maxmin-floors", 2))
        for texts in (QUESTIONS[:1], QUESTIONS):
            record.clear()
            model.answer([(clip, text) for text in texts], question("maxmin-floors", 2))
            assert before_the_first_token(record) == {}


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize(("reducer", "form"), [("maxmin-floors", "fused"), ("cs2", "fused"), ("cs2", "extractive")])
def test_a_question_waits_once_for_each_token_and_for_its_report(reducer: str, form: str, tokens: int) -> None:
    with on_cuda(endless(on_cpu(form=form))) as (model, record):
        clip = model.encode(tinymodel.clip())
        record.clear()
        clip.ask(QUESTIONS[0], question(reducer, tokens))
    expected = Counter(QUESTION) + times(tokens, TOKEN)
    expected += Counter({} if (reducer, form) == ("cs2", "fused") else EVIDENCE)
    assert waits(record) == expected


@pytest.mark.parametrize("tokens", [1, 9])
def test_each_drop_of_seats_waits_for_the_number_of_tokens_that_are_left(tokens: int) -> None:
    with on_cuda(endless(on_cpu())) as (model, record):
        clip = model.encode(tinymodel.clip())
        record.clear()
        clip.ask(QUESTIONS[0], question("seats", tokens))
        drops = REGISTERED["seats"].schedule.at(model.backbone.shape.layers, 0.3).drops
    counts = {"inputs/token_stream.py:counted": 1 + len(drops), "inputs/token_stream.py:kept_times": 3}
    reports = {"inputs/descent.py:counts_by_layer": 1}
    first = {"reducers/budget.py:parts": 1}  # the windows that diverse compares
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
