"""The model class for lmms-eval, driven as the harness drives it.

Where lmms-eval is installed its own base class and registry are used. Its dependencies contradict ours (it wants an
older PyAV), so CI has it not: there a base class with the same interface stands in, and what is not run is the
harness itself, its registry and its tasks.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from echoingpixels.errors import MediaError, OptionError
from tests.support.program import ROOT

QUESTION = "Which object appears first?"
REAL = find_spec("lmms_eval") is not None


class Base(ABC):
    """What lmms-eval 0.7.3's base class gives and asks."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook = SimpleNamespace(add_partial=lambda attribute, request, answer: None)
        self.task_dict: dict[str, Any] = {}

    @abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abstractmethod
    def generate_until(self, requests: Any) -> Any: ...

    @abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...


@pytest.fixture(scope="module")
def lmms() -> Iterator[Any]:
    """Our module, on the real base class or on the one above."""
    with pytest.MonkeyPatch.context() as patch:
        if not REAL:
            names = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "loguru")
            made = {name: ModuleType(name) for name in names}
            made["lmms_eval.api.model"].lmms = Base  # type: ignore[attr-defined]
            made["loguru"].logger = SimpleNamespace(error=print, warning=print)  # type: ignore[attr-defined]
            for name, module in made.items():
                patch.setitem(sys.modules, name, module)
        yield importlib.import_module("echoingpixels.integrations.lmms")
    sys.modules.pop("echoingpixels.integrations.lmms", None)


def message(*media: Any, text: str = QUESTION) -> list[dict[str, Any]]:
    """As a task's doc_to_messages makes it."""
    parts = [{"type": "video", "url": one} for one in media]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def request(doc: int, **settings: Any) -> Any:
    """As the evaluator makes it, of a document that holds its messages."""
    return SimpleNamespace(args=("context", lambda doc: doc, settings, doc, "task", "test"))


def test_requests_are_answered_in_order_and_a_missing_clip_ends_nothing(
    lmms: Any, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lmms.Lmms(pretrained="tiny", keep="0.2", reducer="uniform", device="cpu", batch_size="1")
    model.task_dict = {"task": {"test": [message(str(film)), message("gone.mp4"), message(str(film), text="Where?")]}}
    read: list[Path] = []
    real = model.ep.encode
    monkeypatch.setattr(model.ep, "encode", lambda path, *rest: read.append(path) or real(path, *rest))
    first, gone, last = model.generate_until([request(i, max_new_tokens=6, temperature=0) for i in range(3)])
    alone = real(film).ask(QUESTION, reducer="uniform", keep=0.2)
    assert first and alone.text.startswith(first) and gone == "" and last
    assert model.failed == 1 and not model.is_simple and str(model.device) == "cpu"
    again = model.generate_until([request(0, max_new_tokens=6, until=[first[1:]])])
    assert again == [first[:1]]
    twice = model.generate_until([request(0, max_new_tokens=1), request(0, max_new_tokens=1)])
    assert len(set(twice)) == 1 and len(read) == 3  # film, gone, film; the rest from the one kept


def test_tasks_of_other_kinds_are_refused_with_a_hint(lmms: Any) -> None:
    model = lmms.Lmms(pretrained="tiny", device="cpu")
    for ask, what in ((model.generate_until_multi_round, "rounds"), (model.loglikelihood, "likelihoods")):
        with pytest.raises(OptionError, match=f"{what}.*Use tasks"):
            ask([request(0)])


def test_what_is_no_question_about_one_file_is_refused(lmms: Any) -> None:
    assert lmms.request_of(message("a.mp4")) == lmms.Request(Path("a.mp4"), None, None, QUESTION)
    for bad in (message(), message("a.mp4", "b.mp4"), message([1, 2]), message("a.mp4", {"array": []})):
        with pytest.raises(MediaError, match="media"):
            lmms.request_of(bad)
    with pytest.raises(MediaError, match="several turns"):
        lmms.request_of([*message("a.mp4"), {"role": "assistant", "content": []}])


def test_options_are_checked_before_the_model_is_read(lmms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmms, "load", None)
    for bad in ({"batch_size": 4}, {"keep": 2}, {"reducer": "best"}, {"fps": 0}):
        with pytest.raises(OptionError):
            lmms.Lmms(**bad)


def test_the_harness_finds_the_class_by_the_entry_point(lmms: Any) -> None:
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    module, name = said["echoingpixels"].split(":")
    assert module == lmms.__name__ and callable(getattr(lmms, name))
    if REAL:
        from lmms_eval.models.registry_v2 import ModelRegistryV2

        registry = ModelRegistryV2()
        registry.register_manifest(lmms.manifest())
        assert registry.get_model_class("echoingpixels") is lmms.Lmms


def test_each_process_of_accelerate_has_its_gpu_and_its_share(lmms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    real = lmms.load

    def load(name: str, how: Any, **options: Any) -> Any:
        asked.append(options)
        return real(name, how, **{**options, "device": "cpu"})

    process = SimpleNamespace(num_processes=8, process_index=11, local_process_index=3)
    monkeypatch.setattr(lmms, "Accelerator", lambda: process)
    monkeypatch.setattr(lmms, "load", load)
    monkeypatch.setattr(lmms.torch.cuda, "is_available", lambda: True)
    made = lmms.Lmms("tiny", device="cuda:0")
    assert asked[0]["device"] == "cuda:3"
    assert (made._rank, made._world_size, made.accelerator) == (11, 8, process)
    monkeypatch.setattr(lmms, "Accelerator", lambda: SimpleNamespace(num_processes=1))
    assert lmms.Lmms("tiny", device="cuda:1")._world_size == 1 and asked[1]["device"] == "cuda:1"
