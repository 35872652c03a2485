"""Planned memory is near the bytes of live tensors, and near the peak of a process that runs the model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels.backbones import attention
from echoingpixels.backbones.base import Features
from echoingpixels.backbones.fixed_cache import places
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.positions import Span
from echoingpixels.inputs.prepare import Media
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions
from echoingpixels.planning import estimate
from echoingpixels.planning.catalog import known_models
from echoingpixels.planning.estimate import Case, memory_of
from echoingpixels.planning.meta_model import Outline, outline
from tests.support import tinymodel
from tests.support.live import Live
from tests.support.program import GIVEN_BACK, ROOT, environment

QUESTION = "Which object appears first?"
STEPS, SIDE = 120, 4  # temporal steps of so many tokens a side
EXACT, NEAR = 0.05, 0.15


@cache
def model(dtype: torch.dtype) -> EchoingPixels:
    """The bundled model, in float32 as it runs on a CPU or in bfloat16 as it runs on CUDA."""
    made = load("tiny", device="cpu")
    if dtype == torch.float32:
        return made
    assert isinstance(made.backbone, QwenOmni)
    backbone = copy(made.backbone)
    backbone.thinker = deepcopy(made.backbone.thinker).to(dtype)
    backbone.text = backbone.thinker.model.language_model
    sieve = deepcopy(made.sieve).to(dtype) if made.sieve else None
    if sieve is not None:
        sieve._run = backbone.run_layers
    return EchoingPixels(backbone, sieve)


def sizes(steps: int = STEPS, side: int = SIDE) -> Media:
    """A clip of a step a second with sound, of which only sizes are known."""
    span = Span(tuple(map(float, range(steps))), side, side, 25 * steps)
    return Media(span, None, (steps, 2 * side, 2 * side), torch.empty(128, 100 * steps, device="meta"))


def filled(media: Media) -> Media:
    """The same with noise in it."""
    assert media.grid is not None and media.mel is not None
    torch.manual_seed(0)
    steps, rows, columns = media.grid
    return replace(media, patches=torch.randn(steps * rows * columns, 1176), mel=torch.randn(media.mel.shape))


def case(dtype: torch.dtype, reducer: str, keep: float) -> Case:
    drawn = outline("tiny", LoadOptions(device="cpu"))
    assert isinstance(drawn.model.backbone, QwenOmni)
    drawn.model.backbone.thinker.to(dtype)
    options = AskOptions(reducer, keep, GenerateOptions(max_new_tokens=1))
    return Case(drawn, sizes(), QUESTION, options)


def peak(run: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes that came and went, and what was made."""
    with torch.no_grad(), Live() as live:
        made = run()
    return live.peak, made


@cache
def encoded(dtype: torch.dtype) -> tuple[int, int, Features]:
    """The peaks of both encoders, and their features."""
    backbone, media = model(dtype).backbone, filled(sizes())
    assert isinstance(backbone, QwenOmni)
    vision, video = peak(lambda: tinymodel.encode(backbone, replace(media, mel=None)).video)
    sound, audio = peak(lambda: tinymodel.encode(backbone, replace(media, patches=None, grid=None)).audio)
    return vision, sound, Features(video, audio)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reducer", ["cs2", "relevance", "fastv", "repeats", "maxmin-floors", "uniform", "full"])
def test_every_stage_is_as_large_as_its_live_tensors(reducer: str, dtype: torch.dtype) -> None:
    one, asked = model(dtype), case(dtype, reducer, 0.3)
    planned = {stage.name: stage for stage in memory_of(asked).stages}
    vision, audio, features = encoded(dtype)
    inputs = one.prepare(sizes(), QUESTION)

    def chosen() -> Any:
        stream = one.backbone.embed(inputs, (features,))
        return stream.take(one.select(stream, reducer, 0.3))

    select_peak, kept = peak(chosen)
    cache = one.backbone.new_cache()
    run = one.backbone.descend if kept.drops else one.backbone.hidden
    prefill_peak, _ = peak(lambda: run(kept, cache))
    stream = inputs.kind.numel() * one.backbone.shape.width * dtype.itemsize
    expected = {
        "vision": planned["vision"].activations,
        "audio": planned["audio"].activations,
        "select": planned["select"].activations + stream,
        "prefill": planned["prefill"].activations + planned["prefill"].kv_cache,
    }
    measured = {"vision": vision, "audio": audio, "select": select_peak, "prefill": prefill_peak}
    assert expected == pytest.approx(measured, rel=EXACT)
    assert planned["prefill"].kv_cache == sum(part.keys.nbytes + part.values.nbytes for part in cache.layers)


@pytest.mark.parametrize("reducer", ["relevance"])
def test_attention_of_a_long_question_is_planned_and_bounded(reducer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, question = model(torch.bfloat16), "Which of these? " * 40
    media, (_, _, features) = sizes(), encoded(torch.bfloat16)
    stream = one.backbone.embed(one.prepare(media, question), (features,))
    words, shape = int(stream.question_tokens.sum()), one.backbone.shape
    all_at_once = shape.heads * words * stream.mask.numel() * 4
    measured, _ = peak(lambda: one.select(stream, reducer, 0.3))
    assert words > 128 and measured < 2 * all_at_once, "before: two layers' weights, a copy and logits"
    for module in (attention, estimate):  # large enough to be what takes the most
        monkeypatch.setattr(module, "QUERIES_AT_ONCE", 128)
    options = AskOptions(reducer, 0.3, GenerateOptions(max_new_tokens=1))
    planned = memory_of(Case(case(torch.bfloat16, reducer, 0.3).outline, media, question, options))
    (select,) = (stage.activations for stage in planned.stages if stage.name == "select")
    assert select == pytest.approx(peak(lambda: one.select(stream, reducer, 0.3))[0], rel=EXACT)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="would prove the plan on a process's own peak")
def test_every_stage_is_as_large_as_a_process_that_runs_it() -> None:
    settings = environment() | GIVEN_BACK | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.memory", "--json", "--keep", "0.7"]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, cwd=ROOT, timeout=280, check=True)
    (row,) = map(json.loads, done.stdout.splitlines())
    assert set(row["stages"]) == {"prepare", "vision", "audio", "select", "prefill", "generate"}
    for name, n in row["stages"].items():
        assert n["planned"] == pytest.approx(n["measured"], rel=NEAR), (name, row)


@cache
def three_b(device: str) -> Outline:
    return outline("qwen2.5-omni-3b", LoadOptions(device=device))


@pytest.mark.parametrize("quant", ["none", "int8", "nf4"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("reducer", ["cs2", "relevance", "maxmin-floors"])
def test_more_of_anything_never_takes_less(reducer: str, device: str, quant: str) -> None:
    whole = three_b(device)
    drawn = replace(whole, model=EchoingPixels(whole.model.backbone, whole.model.sieve, quant))

    def planned(keep: float = 0.1, steps: int = 30, side: int = 8, tokens: int = 8) -> dict[str, int]:
        options = AskOptions(reducer, keep, GenerateOptions(max_new_tokens=tokens))
        asked = memory_of(Case(drawn, sizes(steps, side), QUESTION, options))
        return {stage.name: stage.beside_weights for stage in asked.stages}

    less = planned()
    more = [planned(keep=0.3), planned(steps=60), planned(side=16), planned(tokens=64)]  # sides that fill a chunk
    for name, n in less.items():
        assert all(other[name] >= n for other in more), name
    assert all(max(other.values()) >= max(less.values()) for other in more)
    assert more[0]["prefill"] > less["prefill"] and more[1]["select"] > less["select"]


def test_full_size_models_fit_where_they_are_meant_to() -> None:
    needs = {(entry.name, need.quant): need.peak for entry in known_models("cuda") for need in entry.needs}
    assert needs["qwen2.5-omni-7b", "nf4"] < 12e9
    assert needs["qwen2.5-omni-3b", "nf4"] < 8e9
    assert (
        needs["qwen2.5-omni-3b", "none"] < 28.2e9 and needs["qwen2.5-omni-7b", "nf4"] < 29.5e9
    )  # published, unreduced


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_quantized_weights_count_their_scales(quant: Any) -> None:
    made = load("tiny", device="cpu", quant=quant)
    assert isinstance(made.backbone, QwenOmni)
    weight = made.backbone.text.layers[0].mlp.up_proj.weight
    sieve = made.sieve.parameters() if made.sieve else ()
    bare = sum(p.numel() * p.element_size() for p in (*made.backbone.parameters(), *sieve))
    scales = weight.quant_state.absmax.nbytes if quant == "nf4" else weight.SCB.nbytes
    assert scales > 0 and made.weight_bytes() > bare + scales


def test_a_cache_of_fixed_length_is_planned_with_all_its_places() -> None:
    plain = case(torch.float32, "uniform", 0.3)
    compiled = replace(plain, options=replace(plain.options, generate=GenerateOptions(1, compile=True)))
    shape, kept = compiled.outline.model.backbone.shape, plain.by_layer[0].total
    entry = 2 * shape.kv_heads * shape.head_size * shape.layers * 4
    assert memory_of(plain).kv_cache == entry * (kept + 1)
    assert memory_of(compiled).kv_cache == entry * places(kept + 1)
    before, fixed = ({stage.name: stage.beside_weights for stage in memory_of(one).stages} for one in (plain, compiled))
    assert fixed["prefill"] == before["prefill"] + entry * places(kept + 1)
