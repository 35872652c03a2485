"""Plans: the cost of an answer, predicted without weights, equals that of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from echoingpixels.checkpoints.loading import KNOWN
from echoingpixels.errors import ModelError
from echoingpixels.from_pretrained import load
from echoingpixels.media import read_clip
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions
from echoingpixels.planning.meta_model import Words, outline
from echoingpixels.planning.plan import plan
from echoingpixels.reducer_names import UNSIEVED
from echoingpixels.report import Flops
from tests.support import tinymodel

QUESTION = "Which object appears first?"
ONE = GenerateOptions(max_new_tokens=1)


@pytest.mark.parametrize("reducer", ["cs2", "full", "uniform", "random", "repeats", "seats", "fastv", "relevance"])
def test_a_plan_holds(reducer: str, tiny: str, film: Path) -> None:
    options = AskOptions(reducer, 0.1, ONE)
    drawn = outline(tiny, LoadOptions(device="cpu"))
    planned = plan(drawn, read_clip(film, frame_size=drawn.model.frame_size), QUESTION, options)
    model = load(tiny, device="cpu")
    real = model.encode(read_clip(film, frame_size=model.frame_size)).ask(QUESTION, options).report
    mine, theirs = planned.report.tokens, real.tokens
    assert mine.kept_ratio == theirs.kept_ratio
    if reducer not in ("full", "uniform", "random"):  # the shares of video and audio are not known before
        mine = replace(mine, video=theirs.video, audio=theirs.audio)
    assert mine == theirs
    assert planned.report.flops == Flops(pytest.approx(real.flops.full), pytest.approx(real.flops.reduced))
    assert planned.report.speedup.estimated == pytest.approx(real.speedup.estimated)
    assert planned.report.memory_bytes.weights == real.memory_bytes.weights
    assert planned.report.memory_bytes.peak == planned.memory.peak > planned.memory.weights
    assert planned.memory.fits and planned.advice == ()
    assert planned.report.as_dict().keys() == real.as_dict().keys()
    assert set(planned.report.time_s.as_dict().values()) == {None}
    assert (planned.device, planned.warnings) == ("cpu", ())


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_quantized_weights_are_predicted(quant: str, tiny: str) -> None:
    drawn = outline(tiny, LoadOptions(quant=quant, device="cpu"))  # type: ignore[arg-type]
    planned = plan(drawn, tinymodel.clip(1.0), QUESTION, AskOptions("full", 1.0, ONE))
    assert planned.report.memory_bytes.weights == load(tiny, quant=quant, device="cpu").weight_bytes()


@pytest.mark.parametrize(
    ("name", "layers", "width", "gigabytes"), [("qwen2.5-omni-3b", 36, 2048, 9.4), ("qwen2.5-omni-7b", 28, 3584, 17.9)]
)
def test_known_models_are_planned_without_a_download(name: str, layers: int, width: int, gigabytes: float) -> None:
    drawn = outline(name, LoadOptions(device="cuda"))
    shape = drawn.model.backbone.shape
    assert (shape.layers, shape.width, shape.head_size) == (layers, width, 128)
    planned = plan(drawn, tinymodel.clip(4.0), QUESTION, AskOptions("full", 1.0, ONE))
    cs2 = plan(drawn, tinymodel.clip(4.0), QUESTION, AskOptions("cs2", 0.1, ONE))
    assert planned.device == "cuda" and planned.warnings == ()
    assert "no sieve weights" in cs2.warnings[0] and "--sieve" in cs2.warnings[0]
    sieve = sum(p.numel() * p.element_size() for p in (drawn.model.sieve.parameters() if drawn.model.sieve else ()))
    assert planned.memory.weights == pytest.approx(gigabytes * 1e9, rel=0.02)
    assert cs2.memory.weights - sieve == planned.memory.weights  # a sieve that will not be loaded is not counted
    assert planned.memory.program == 0 and "prepare" not in {stage.name for stage in planned.memory.stages}
    assert cs2.report.flops.reduced < cs2.report.flops.full == planned.report.flops.full


def test_the_hub_id_of_a_known_model_is_the_same_plan() -> None:
    by_id = outline(KNOWN["qwen2.5-omni-7b"], LoadOptions())
    assert by_id.model.backbone.shape == outline("qwen2.5-omni-7b", LoadOptions()).model.backbone.shape


def test_a_folder_without_a_sieve_is_planned_with_relevance_and_refused_for_cs2(tiny: str, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(KNOWN.get(tiny, tiny), bare, ignore=shutil.ignore_patterns("sieve", "*.safetensors"))
    drawn = outline(str(bare), LoadOptions())
    with pytest.raises(ModelError, match="no sieve weights"):
        plan(drawn, tinymodel.clip(1.0), QUESTION, AskOptions("cs2"))
    planned = plan(drawn, tinymodel.clip(1.0), QUESTION, AskOptions())
    assert planned.options.reducer == UNSIEVED and planned.report.tokens.kept_ratio < 0.3


def test_words_stand_in_for_tokens() -> None:
    assert len(Words().encode("<|im_start|>user\nWho rings, the bell?")) == 9
