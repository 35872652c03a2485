"""`python -m bench.gpu`: every section on a CPU and on pretended CUDA, failed cases, and the time budget."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import typer

from bench.gpu import parity, speed
from bench.gpu.__main__ import SOME_FAILED, main
from bench.gpu.film import write_film
from bench.gpu.models import RANDOM, Models, chosen_weights
from bench.gpu.rows import ABSENT, FAILED, OK, Budget, Case, Row, run
from bench.gpu.setup import Setup
from bench.gpu.table import SECTIONS, markdown
from echoingpixels.errors import OutOfMemoryError
from echoingpixels.media import read_clip
from echoingpixels.media.sandbox.worker import Worker
from echoingpixels.model import EchoingPixels
from tests.support.pretend_cuda import pretend_cuda
from tests.support.pretended import slow_varlen_attn

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "model": "tiny",
    "device": "cpu",
    "seconds": 2.0,
    "keep": "0.3,0.1",
    "batch": 2,
    "tokens": 3,
    "repeat": 1,
    "compiled": False,
}
Bench = Callable[..., tuple[int, dict[str, list[Row]], str]]


@pytest.fixture
def bench(tmp_path: Path, film: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """`bench(sections=…)`: the exit code, the sections of the JSON, and the Markdown, which is also what is printed."""

    def call(**options: Any) -> tuple[int, dict[str, list[Row]], str]:
        code = 0
        try:
            main(**{**SMALL, "clip": film, "out": tmp_path / "out", **options})
        except typer.Exit as end:
            code = end.exit_code
        text = (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8")
        assert capsys.readouterr().out == text
        return code, json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))["sections"], text

    return call


@pytest.fixture
def setup(tiny_model: EchoingPixels, film: Path) -> Iterator[Setup]:
    """The bundled model, answering a short clip."""
    model = EchoingPixels(copy(tiny_model.backbone), tiny_model.sieve)
    model.backbone.stop_ids, model.backbone.reuse = frozenset(), None
    models = Models("tiny", "tiny", CPU)
    with Worker() as worker, mock.patch.object(models, "get", lambda dtype, quant="none": model):
        yield Setup(models, worker, film, 2.0, (0.3, 0.1), 2, 3, 1, Budget(5.0))


def middle(row: Row, *names: str) -> list[float]:
    return [row[name]["median"] for name in names]


def test_a_whole_run_on_a_cpu_has_every_section_with_plausible_figures(bench: Bench) -> None:
    code, sections, text = bench(clip=None, size=(112, 84))
    assert code == 0 and list(sections) == list(SECTIONS) and all(one.question in text for one in SECTIONS.values())
    assert all(row["state"] == OK for name, rows in sections.items() if name != "waits" for row in rows)
    assert {row["state"] for row in sections["waits"]} == {ABSENT}
    check_parity(sections["parity"])
    check_stages(sections["stages"])
    off, *fewer = (row["video_tokens"] for row in sections["encoders"])
    assert off == sections["encoders"][0]["of"] > fewer[0] > fewer[1] > 0
    assert [row["decoding"] for row in sections["decoding"]] == ["plain", "static"] * 2
    plain, _, four_bit, _ = (row["weights_bytes"] for row in sections["quantization"])
    assert four_bit < plain


def check_parity(rows: list[Row]) -> None:
    """In float32 on a CPU the path is exact, and in both dtypes an encoder that drops nothing is the plain one."""
    exact = [row for row in rows if row["dtype"] == "float32"]
    assert len(exact) == len(rows) / 2
    assert exact[0]["logit_difference"] < 1e-4 < 0.5 < exact[0]["largest_logit"]
    assert all(row["equal_tokens"] == 1 for row in exact[:-1])
    assert all(row["bit_for_bit"] and row["feature_difference"] == 0 for row in rows if "bit_for_bit" in row)


def check_stages(rows: list[Row]) -> None:
    """Kept tokens decrease with the ratio, and the stages add up to the first token."""
    assert {row["batch"] for row in rows} == {1, 2}
    for batch in (1, 2):
        full, *others = (row for row in rows if row["batch"] == batch)
        assert full["reducer"] == "full" and full["kept"] == full["tokens"]
        assert middle(full, "speedup", "llm_speedup") == [1, 1]
        for reducer in ("maxmin-floors", "cs2-maxmin"):
            mine = [full, *(row for row in others if row["reducer"] == reducer)]
            assert all(one["kept"] > other["kept"] > 0 for one, other in pairwise(mine))
        for row in rows:
            names = ("decode_s", "prepare_s", "encode_s", "select_s", "prefill_s")
            assert sum(middle(row, *names)) == pytest.approx(*middle(row, "first_token_s"))
            assert min(middle(row, *names, "generate_s", "tokens_per_s", "peak_bytes")) > 0


def test_a_whole_run_on_pretended_cuda_mixes_no_devices(bench: Bench) -> None:
    with mock.patch("torch.nn.attention.varlen.varlen_attn", slow_varlen_attn), pretend_cuda():
        code, sections, text = bench(device="cuda", weights=RANDOM, clip=None, size=(112, 84), keep="0.1")
    failed = [row for rows in sections.values() for row in rows if row["state"] != OK]
    assert [row["case"] for row in failed] == ["nf4"]  # bitsandbytes finds no CUDA here
    assert code == SOME_FAILED and "attention: vision ep_flash_varlen, audio ep_flash_varlen, decoder sdpa" in text
    check_parity(sections["parity"])
    check_stages(sections["stages"])
    assert [row["attention"] for row in sections["encoders"]][:2] == ["ep_flash_varlen", "sdpa"]


def test_the_host_s_waits_before_the_first_token_are_counted_by_stage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = EchoingPixels.select

    def waits(model: EchoingPixels, stream: Any, reducer: str, keep: float) -> Any:
        made = choose(model, stream, reducer, keep)
        assert reducer == "full" or bool(made.keep.any())  # this waits
        return made

    monkeypatch.setattr(EchoingPixels, "select", waits)
    with mock.patch("torch.nn.attention.varlen.varlen_attn", slow_varlen_attn), pretend_cuda():
        code, sections, _ = bench(device="cuda", weights=RANDOM, sections="waits", keep="0.1")
    assert code == 0
    assert {(row["case"], row["stage"]): row["count"] for row in sections["waits"]} == {
        (name, stage): int(stage == "prefill" or name != "full 1")  # prefill: the token itself
        for name in ("full 1", "maxmin-floors 0.1", "cs2-maxmin 0.1")
        for stage in ("select", "prefill")
    }


def test_a_case_that_fails_is_a_row_and_the_others_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    code, sections, text = bench(sections="quantization")
    assert code == SOME_FAILED and list(sections) == ["quantization"]
    states = [(row["case"], row["state"], row["note"]) for row in sections["quantization"]]
    assert states == [("none", OK, "")] * 2 + [("nf4", FAILED, "nf4 needs the package bitsandbytes.")]
    assert "| nf4: failed (nf4 needs the package bitsandbytes.) |" in text


def test_a_setting_for_which_memory_is_too_small_fails_alone(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    real = speed._figures

    def figures(clip: Any, options: Any, batch: int) -> Any:
        if options.reducer == "full":
            raise OutOfMemoryError("Memory ran out on cuda.", "Buy more.")
        return real(clip, options, batch)

    monkeypatch.setattr(speed, "_figures", figures)
    case = next(speed.stages(setup))
    ((_, (full, *others)),) = run([case], setup.budget)
    assert (full["state"], full["note"]) == (FAILED, "Memory ran out on cuda.")
    assert all(row["state"] == OK and row["first_token_s"] and row["speedup"] is None for row in others)


@pytest.mark.parametrize(("dtype", "state"), [("float32", FAILED), ("bfloat16", OK)])
def test_another_token_than_transformers_is_a_failure_in_float32_and_a_figure_in_half_precision(
    dtype: str, state: str, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parity.plain_answer

    def other(*given: Any, **options: Any) -> Any:
        made = real(*given, **options)
        made.sequences[0, -1] += 1
        return made

    monkeypatch.setattr(parity, "plain_answer", other)
    ((_, (row,)),) = run([next(parity.cases(setup, dtype))], setup.budget)
    assert row["state"] == state and row["equal_tokens"] == pytest.approx(2 / 3)
    assert row["note"] == ("differs" if state == FAILED else "")


def test_cases_that_would_begin_after_the_budget_are_listed_as_not_run() -> None:
    clock = iter([0.0, 10.0, 59.0, 61.0, 70.0])
    budget = Budget(1.0, lambda: next(clock))
    cases = [Case("stages", str(i), lambda: [{"batch": 1}]) for i in range(4)]
    rows = [row for _, rows in run(cases, budget) for row in rows]
    assert [(row["case"], row["state"], row["note"]) for row in rows] == [
        *((str(i), OK, "") for i in range(2)),
        *((str(i), ABSENT, "time") for i in (2, 3)),
    ]
    assert markdown({"model": "m", "weights": "w", "device": "d"}, {"stages": rows}, 70.0).endswith(
        "| batch | note |\n|---|---|\n| 1 |  |\n| 1 |  |\n|  | 2: not run (time) |\n|  | 3: not run (time) |\n"
    )


def test_without_time_every_section_is_listed_and_nothing_runs(bench: Bench) -> None:
    code, sections, text = bench(minutes=0.0)
    assert code == 0 and list(sections) == list(SECTIONS)
    assert {row["state"] for rows in sections.values() for row in rows} == {ABSENT}
    assert text.count("not run (time)") == sum(map(len, sections.values())) - 3  # waits never run on a CPU


def test_an_error_of_any_kind_is_one_short_line_and_the_next_case_runs() -> None:
    def broken() -> Iterator[Row]:
        yield {"batch": 1}
        raise RuntimeError("first line, " + "long " * 100 + "\nsecond line")

    cases = [Case("stages", "batch 1", broken), Case("stages", "batch 8", lambda: [{"batch": 8}])]
    (_, (row, failure)), (_, (after,)) = run(cases, Budget(1.0))
    assert (row["state"], failure["state"], after["state"]) == (OK, FAILED, OK)
    assert failure["note"].startswith("RuntimeError: first line") and len(failure["note"]) <= 200


def test_unknown_sections_are_refused(bench: Bench) -> None:
    with pytest.raises(typer.BadParameter, match=r"speeds; known: parity, stages"):
        bench(sections="parity,speeds")


def test_random_weights_are_quantized_as_those_of_a_file() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    models = Models("tiny", RANDOM, CPU)
    plain = models.get("float32")
    assert models.get("float32") is plain
    four_bit = models.get("float32", "nf4")
    assert four_bit.quant == "nf4" and four_bit.weight_bytes() < plain.weight_bytes()
    before = dict(plain.backbone.thinker.named_modules())
    quantized = 0
    for name, module in four_bit.backbone.thinker.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(weight, weight.quant_state)
            assert torch.cosine_similarity(weight.flatten(), before[name].weight.flatten(), 0) > 0.99
            quantized += 1
        elif weight is not None:
            assert torch.equal(weight, before[name].weight)
    assert quantized == 7 * four_bit.backbone.shape.layers


def test_weights_are_random_unless_the_model_is_on_this_machine() -> None:
    assert chosen_weights("tiny", None) == "tiny" and chosen_weights("tiny", RANDOM) == RANDOM
    assert chosen_weights("qwen2.5-omni-7b", None) == RANDOM
    assert chosen_weights("qwen2.5-omni-3b", "folder") == "folder"


def test_the_film_has_its_size_and_sound_to_its_end(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", 8.0, 64, 48)  # longer than the bundled clip
    clip = read_clip(tmp_path / "film.mp4")
    assert clip.frames.shape[1:3] == (48, 64) and len(clip.frames) == 16
    assert clip.audio is not None and len(clip.audio) / 16_000 == pytest.approx(8.0, abs=0.1)
    assert clip.frames[:2].std() > 5 and clip.audio[-16_000:].std() > 0
