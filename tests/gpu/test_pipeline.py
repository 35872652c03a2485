"""The whole pipeline on pretended CUDA: no mixed devices, no mixed dtypes, and every answer is the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tools.quotas  # noqa: F401  the ablations are reducers too
from echoingpixels.backbones import qwen_omni
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.datasets.questions import Row
from echoingpixels.encoded_clip import from_cache
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.explain.explanation import explain
from echoingpixels.features import encode as encoding
from echoingpixels.features.cache import FeatureCache
from echoingpixels.from_pretrained import load
from echoingpixels.generation import decode as generate
from echoingpixels.inputs.patches import Resolution
from echoingpixels.media.clip import Clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, Reuse
from echoingpixels.options.encoder_keep import EncoderKeep
from echoingpixels.reducer_names import REDUCER_NAMES, SIEVED
from echoingpixels.reducers import budget
from echoingpixels.reducers import chunked_scoring as windows
from echoingpixels.reducers.setting import Setting
from tests.support import tinymodel
from tests.support.pretend_cuda import pretend_cuda
from tests.support.pretended import on_cpu, on_cuda

DEMO = Path(__file__).parents[2] / "models/echoingpixels/assets/demo.mp4"
QUESTIONS = ("Who?", "Which object appears first?", "Is the bell heard?")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FORMS = [
    (name, form) for name in REDUCER_NAMES for form in ("fused", "extractive") if name in SIEVED or form == "fused"
]
Work = Callable[[EchoingPixels], Any]


def same(work: Work, model: EchoingPixels, capability: tuple[int, int] = (9, 0)) -> Any:
    """The result of `work`, which is the same on the CPU and on pretended CUDA."""
    expected = work(model)
    with on_cuda(model, capability) as (copied, _):
        found = work(copied)
    assert found == expected
    return found


def asked(question: str = QUESTIONS[1], clip: Clip | None = None, keep: Any = 0.3, **options: Any) -> Work:
    """Answer one question: the token ids, and the times of the kept tokens."""
    reducer = options.pop("reducer", "cs2")
    chosen = AskOptions(reducer, keep, GenerateOptions(**{"max_new_tokens": 6, **options}))

    def work(model: EchoingPixels) -> Any:
        answer = model.encode(clip or tinymodel.clip()).ask(question, chosen)
        return answer.token_ids, answer.kept_times

    return work


def reusing(
    model: EchoingPixels, reuse: Reuse, max_pixels: int = 84 * 84, keep: EncoderKeep | None = None
) -> EchoingPixels:
    """The same model with another reuse threshold, resolution and encoder keep."""
    on = model.backbone
    assert isinstance(on, QwenOmni)
    resolution = Resolution.plain(max_pixels, on.resolution.video_min)
    made = QwenOmni(on.thinker, on.tokenizer, on.name, resolution, reuse, keep)
    return EchoingPixels(made, model.sieve)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("reducer", "form"), FORMS)
def test_every_reducer_answers_as_on_the_cpu(reducer: str, form: str, dtype: torch.dtype) -> None:
    same(asked(reducer=reducer), on_cpu(dtype, form=form))


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1.5}, {"static": True}, {"max_new_tokens": 1}],
    ids=["sampled", "static", "one token"],
)
def test_every_way_to_decode_answers_as_on_the_cpu(options: dict[str, Any]) -> None:
    same(asked("aaaa aaaa", **options), on_cpu())


@pytest.mark.parametrize("reducer", ["cs2", "cs2-maxmin", "maxmin-floors", "relevance"])
def test_a_long_clip_scored_by_windows_answers_as_on_the_cpu(reducer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "AT_ONCE", 60)
    monkeypatch.setattr(windows, "WINDOW", 40)
    monkeypatch.setattr(budget, "PART", 40)
    same(asked(reducer=reducer, clip=tinymodel.clip(6.0)), on_cpu())


@pytest.mark.parametrize("reuse", [None, 0.1, 0.5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_reuse_threshold_answers_as_on_the_cpu(
    reuse: Reuse, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen_omni, "PATCHES_AT_ONCE", 240)  # several chunks
    noise = np.random.default_rng(3).integers(0, 256, (12, 140, 168, 3), dtype=np.uint8)
    noise[4:8] = noise[3]  # still for a while
    clip = replace(tinymodel.clip(6.0), frames=noise)
    same(lambda model: asked(clip=clip)(reusing(model, reuse, 168 * 168)), on_cpu(dtype))


@pytest.mark.parametrize("full", [[1], [0]], ids=["full", "windows"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cells_dropped_in_the_encoder_answer_as_on_the_cpu(
    dtype: torch.dtype, full: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen_omni, "PATCHES_AT_ONCE", 240)
    noise = np.random.default_rng(3).integers(0, 256, (12, 140, 168, 3), dtype=np.uint8)
    noise[4:8] = noise[3]
    clip, model = replace(tinymodel.clip(6.0), frames=noise), on_cpu(dtype)
    backbone: Any = model.backbone
    backbone.thinker.model.visual.fullatt_block_indexes = full
    same(asked(clip=clip), reusing(model, 0.1, 168 * 168, EncoderKeep((0.3,), (1,))))


@pytest.mark.parametrize("kind", ["video", "sound", "image"])
def test_clips_of_one_kind_answer_as_on_the_cpu(kind: str) -> None:
    clip = tinymodel.clip(sound=kind != "video")
    if kind == "sound":
        clip = replace(clip, frames=clip.frames[:0], times=clip.times[:0])
    if kind == "image":
        clip = replace(clip, frames=clip.frames[:1], times=clip.times[:1], audio=None, duration=0.0)
        clip = replace(clip, source=replace(clip.source, kind="image", duration=None))
    same(asked(clip=clip), on_cpu())


@pytest.mark.parametrize("masked", [generate.MASKED, 1], ids=["padded", "by equal length"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_padded_batch_answers_as_on_the_cpu(masked: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "MASKED", masked)

    def work(model: EchoingPixels) -> list[str]:
        clips = [tinymodel.clip(seconds, seed=i) for i, seconds in enumerate((2.0, 4.0, 2.0))]
        batch = [(encoded, question) for encoded in map(model.encode, clips) for question in QUESTIONS]
        return [one.text for one in model.answer(batch, AskOptions("cs2", 0.3, GenerateOptions(5)))]

    assert len(same(work, on_cpu(dtype))) == 9


@pytest.mark.parametrize("reducer", ["seats", "fastv"])
@pytest.mark.parametrize("masked", [generate.MASKED, 1], ids=["padded", "by equal length"])
def test_a_batch_that_drops_tokens_inside_the_decoder_answers_as_on_the_cpu(
    reducer: str, masked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "MASKED", masked)

    def work(model: EchoingPixels) -> Any:
        clips = [tinymodel.clip(seconds, seed=i) for i, seconds in enumerate((2.0, 4.0))]
        batch = [(encoded, question) for encoded in map(model.encode, clips) for question in QUESTIONS[:2]]
        answers = model.answer(batch, AskOptions(reducer, 0.4, GenerateOptions(5)))
        return [(answer.token_ids, answer.report.last_layer) for answer in answers]

    same(work, on_cpu())


def test_features_from_the_cache_answer_as_on_the_cpu(tmp_path: Path) -> None:
    def work(model: EchoingPixels) -> Any:
        cache = FeatureCache(tmp_path / model.backbone.device.type)
        model.encode_pieces(tinymodel.clip().pieces(), {}, cache.slot("ab" * 32)).store()
        found = cache.get("ab" * 32, "clip.mp4")
        assert found is not None
        clip = from_cache(model, found, {})
        assert clip.cached
        return clip.ask(QUESTIONS[0], AskOptions("cs2", 0.3, GenerateOptions(4))).token_ids

    same(work, on_cpu())


@pytest.mark.parametrize("form", ["fused", "extractive"])
def test_an_explanation_is_as_on_the_cpu(form: str) -> None:
    def work(model: EchoingPixels) -> Any:
        clip, options = tinymodel.clip(), AskOptions("cs2", 0.3, GenerateOptions(3))
        made = explain(model.encode(clip), clip, QUESTIONS[0], options, (0.1, 1.0))
        return [(choice.kept, choice.answer.text) for choice in made.choices]

    same(work, on_cpu(form=form))


def test_a_comparison_is_as_on_the_cpu() -> None:
    def work(model: EchoingPixels) -> list[str]:
        clip = model.encode(tinymodel.clip())
        return [answer.text for answer in clip.compare(QUESTIONS[0], AskOptions("cs2", 0.3, GenerateOptions(3)))]

    same(work, on_cpu())


def test_an_evaluation_is_as_on_the_cpu() -> None:
    rows = [Row(str(i), DEMO, question, "cat", "who", "listen") for i, question in enumerate(QUESTIONS)]

    def work(model: EchoingPixels) -> Any:
        runs = evaluate(model, rows, [Setting("full", 1.0), Setting("cs2", 0.3)], generate=GenerateOptions(4))
        return [outcome.answer for run in runs for outcome in run.outcomes]

    same(work, on_cpu())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gpu_without_flash_attention_answers_as_the_cpu(dtype: torch.dtype) -> None:
    same(asked(), on_cpu(dtype), capability=(7, 5))
    same(asked(static=True), on_cpu(dtype), capability=(7, 5))


def test_pieces_are_cut_in_a_thread_beside_the_gpu() -> None:
    with encoding._cutter(torch.device("cuda")) as cutter, encoding._cutter(torch.device("cpu")) as none:
        assert cutter is not None and none is None


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_the_bundled_model_loads_onto_the_gpu_with_all_its_weights(
    capability: tuple[int, int], tiny_model: EchoingPixels
) -> None:
    with pretend_cuda(capability) as record:
        model = load("tiny", device="cuda")
        assert model.sieve is not None
        on_gpu = [*model.backbone.parameters(), *model.sieve.parameters()]
        assert {str(weight.device) for weight in on_gpu} == {"cuda:0"}
        assert model.weight_bytes() * 2 == tiny_model.weight_bytes()  # half precision
        digests = {"checkpoints/fingerprint.py:_digest"} if capability >= (8, 0) else set()  # float16 has none
        assert set(record.count("sync")) == digests  # which decoder a sieve was trained on
