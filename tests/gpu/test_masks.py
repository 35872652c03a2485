"""Masks of attention on pretended CUDA: a question alone has none, so that no matrix of all pairs of tokens is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from echoingpixels.backbones.fixed_cache import LEAST
from echoingpixels.generation import decode as generate
from echoingpixels.media.clip import Clip
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.options.encoder_keep import EncoderKeep
from echoingpixels.reducer_names import REDUCER_NAMES, SIEVED
from tests.gpu.test_pipeline import QUESTIONS, reusing
from tests.support import tinymodel
from tests.support.pretended import on_cpu, on_cuda
from tests.support.record import Record


def masks(record: Record) -> set[str]:
    """Shapes of the masks, and "no mask", of all attention calls."""
    return {event.what.split(", causal")[0].split(", full")[0] for event in record.events if event.kind == "attention"}


def question(reducer: str, **options: Any) -> AskOptions:
    return AskOptions(reducer, 0.3, GenerateOptions(3, **options))


@pytest.mark.parametrize("reducer", REDUCER_NAMES)
def test_a_question_is_encoded_scored_read_and_answered_without_a_mask(reducer: str) -> None:
    with on_cuda(on_cpu(form="extractive" if reducer in SIEVED else "fused")) as (model, record):
        model.encode(tinymodel.clip()).ask(QUESTIONS[0], question(reducer))
    assert masks(record) == {"no mask"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_row_takes_a_fused_kernel(dtype: torch.dtype) -> None:
    with on_cuda(on_cpu(dtype)) as (model, record):
        model.encode(tinymodel.clip()).ask(QUESTIONS[0], question("cs2"))
    how = {event.what.rsplit(", ", 2)[0] for event in record.events if event.kind == "attention"}
    decoder = {"no mask, causal, gqa", "no mask, full, gqa"}
    assert how == decoder | ({"no mask, full, equal heads"} if dtype is torch.float32 else set())


@pytest.mark.parametrize("full", [[1], [0]], ids=["full", "windows"])
def test_an_encoder_that_drops_cells_takes_no_mask(full: list[int]) -> None:
    with on_cuda(reusing(on_cpu(), 0.1, 168 * 168, EncoderKeep((0.3,), (1,)))) as (model, record):
        model.backbone.thinker.model.visual.fullatt_block_indexes = full
        model.encode(noise())
    assert masks(record) == {"no mask"}


def test_with_a_static_cache_a_step_masks_the_places_that_are_not_written_yet() -> None:
    with on_cuda(on_cpu()) as (model, record):
        model.encode(tinymodel.clip()).ask(QUESTIONS[0], question("cs2", static=True))
    assert masks(record) == {"no mask", f"mask (1, 1, 1, {LEAST})"}


def test_a_question_that_continues_a_prefix_masks_its_own_rows_alone() -> None:
    with on_cuda(on_cpu()) as (model, record):
        clip = model.encode(tinymodel.clip())
        first = clip.ask(QUESTIONS[0], question("maxmin-floors"))
        assert masks(record) == {"no mask"}
        record.clear()
        answer = clip.ask(QUESTIONS[1], question("maxmin-floors"))
    text = clip.prompt(QUESTIONS[1]).inputs
    rows, length = text.kind.shape[1] - text.media_end, answer.report.first_layer.total
    assert first.report.first_layer.pool == answer.report.first_layer.pool
    assert masks(record) == {"no mask", f"mask (1, 1, {rows}, {length})"}


def test_rows_of_one_length_are_attended_without_a_mask() -> None:
    with on_cuda(on_cpu()) as (model, record):
        clip = model.encode(tinymodel.clip())
        model.answer([(clip, text) for text in ("Who?", "How?", "Why?")], question("cs2"))
    assert masks(record) == {"no mask"}


@pytest.mark.parametrize("masked", [generate.MASKED, 1], ids=["padded", "by equal length"])
def test_of_a_padded_batch_only_short_rows_have_a_mask_of_all_pairs(
    masked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "MASKED", masked)
    with on_cuda(on_cpu()) as (model, record):
        clips = [model.encode(tinymodel.clip(seconds)) for seconds in (2.0, 4.0)]
        model.answer([(clip, QUESTIONS[0]) for clip in clips], question("cs2"))
    shapes = [found.removeprefix("mask ") for found in masks(record) - {"no mask"}]
    assert shapes and all(shape.startswith("(2, 1, 1, ") for shape in shapes) == (masked == 1)


def noise() -> Clip:
    """Six seconds in which every cell differs, but for a still stretch."""
    frames = np.random.default_rng(3).integers(0, 256, (12, 140, 168, 3), dtype=np.uint8)
    frames[4:8] = frames[3]
    return replace(tinymodel.clip(6.0), frames=frames)
