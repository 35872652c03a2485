"""Out of memory: one clear error with advice in every command, tensors freed first, and nothing deleted for it."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels import encoded_clip, model
from echoingpixels.checkpoints import loading
from echoingpixels.errors import OutOfMemoryError, guarded, guarded_stream
from echoingpixels.from_pretrained import load
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from tests.support.program import Program

DEMO = Path(__file__).parents[2] / "models/echoingpixels/assets/demo.mp4"
QUESTION = "Which object appears first?"
CPU = torch.device("cpu")
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


def run_out(*_: object, **__: object) -> Any:
    """In place of something that needs memory."""
    raise torch.OutOfMemoryError(FULL)


def test_tensors_of_the_failed_call_are_freed_before_the_advice_is_made() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def call() -> None:
        big = torch.zeros(10)
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError(FULL)

    def advise() -> tuple[str, ...]:
        assert held[0]() is None, "the traceback still holds the tensor"
        return ("--quant nf4: 1.00 GB, 2.00 GB to spare.",)

    with pytest.raises(OutOfMemoryError, match="while thinking") as error:
        guarded(call, "thinking", CPU, advise)
    assert error.value.__context__ is None and "--quant nf4" in error.value.hint


def test_a_stream_that_runs_out_has_given_what_came_before() -> None:
    def tokens() -> Iterator[int]:
        yield 1
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    got = []
    with pytest.raises(OutOfMemoryError):
        for token in guarded_stream(tokens(), "answering", CPU, lambda: ()):
            got.append(token)
    assert got == [1]


def test_other_errors_pass_as_they_are() -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        guarded(fail, "thinking", CPU, lambda: ())


def test_out_of_memory_while_loading_gives_sizes_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = loading.fetch

    def fetch(kind: Any, place: str, **options: Any) -> Any:
        return run_out() if "Thinker" in kind.__name__ else real(kind, place, **options)

    monkeypatch.setattr(loading, "fetch", fetch)
    with pytest.raises(OutOfMemoryError, match="Memory ran out on cpu while loading tiny") as error:
        load("tiny", device="cpu")
    assert "--quant nf4" in error.value.hint
    assert "hf download" not in error.value.hint and "Check the folder" not in error.value.hint


def test_out_of_memory_never_deletes_kept_quantized_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    load("tiny", device="cpu", quant="nf4", cache=tmp_path)
    kept = sorted(path for path in tmp_path.rglob("*.safetensors"))
    assert kept
    real = loading.fetch

    def fetch(kind: Any, place: str, **options: Any) -> Any:
        return run_out() if str(tmp_path) in place else real(kind, place, **options)

    monkeypatch.setattr(loading, "fetch", fetch)
    with pytest.raises(OutOfMemoryError):
        load("tiny", device="cpu", quant="nf4", cache=tmp_path)
    assert sorted(path for path in tmp_path.rglob("*.safetensors")) == kept


@pytest.mark.parametrize("where", ["encoding the clip", "answering"])
def test_out_of_memory_with_a_clip_is_an_error_with_the_planner_s_advice(
    where: str, tiny_model: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    from echoingpixels.planning import advice, estimate

    clip = read_clip(DEMO)
    for module in (advice, estimate):
        monkeypatch.setattr(module, "free_memory", lambda device: 400_000_000)
    if where == "answering":
        monkeypatch.setattr(model, "generate", run_out)
    else:
        monkeypatch.setattr(encoded_clip, "encode", run_out)
    with pytest.raises(OutOfMemoryError, match=where) as error:
        tiny_model.ask(clip, QUESTION)
    assert "GB to spare" in error.value.hint or "too much" in error.value.hint


def test_every_command_gives_one_clear_error(
    ep: Program, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"media": str(film), "question": QUESTION, "answer": "cat"}) + "\n")
    monkeypatch.setattr(encoded_clip, "encode", run_out)
    commands: list[list[object]] = [
        ["ask", film, QUESTION, "--no-cache"],
        ["explain", film, QUESTION, "--out", tmp_path / "page.html"],
        ["profile", film, QUESTION, "--repeat", 1, "--warm-up", 0],
        ["evaluate", questions, "--keep", "1"],
        ["batch", film, "--question", QUESTION, "--out", tmp_path / "rows.jsonl", "--no-cache"],
    ]
    for words in commands:
        done = ep(*words)
        printed = done.err + done.out + ((tmp_path / "rows.jsonl").read_text() if words[0] == "batch" else "")
        assert done.code in (1, 3), words
        assert "emory" in printed and "internal error" not in printed and "report it" not in printed, (words, printed)


def test_out_of_memory_that_no_command_expects_is_still_no_internal_error(
    ep: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from echoingpixels.explain import explanation

    monkeypatch.setattr(explanation, "explain", run_out)
    done = ep("explain", DEMO, QUESTION, "--out", "never.html")
    assert done.code == 1 and "Memory ran out" in done.err and "internal error" not in done.err
    gc.collect()
