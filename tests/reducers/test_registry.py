"""A reducer is added in one call, and then works by name wherever a reducer is named."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from echoingpixels import reducer_names
from echoingpixels.backbones.base import Backbone, Shape
from echoingpixels.datasets.questions import Row
from echoingpixels.errors import EpError, ModelError, OptionError
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.reducer_names import GROUP, REDUCER_NAMES, SIEVED
from echoingpixels.reducers import registry as registry_module
from echoingpixels.reducers.cs2 import Sieve
from echoingpixels.reducers.registry import REDUCERS, Reducer, register
from echoingpixels.reducers.score import Scored, Scorer
from echoingpixels.reducers.setting import Setting
from tests.support import tinymodel

SHORT = GenerateOptions(max_new_tokens=3)
SCORING = 1e12  # floating-point operations


def latest(backbone: Backbone, sieve: Sieve | None, stream: TokenStream) -> Scored:
    """The last tokens of the clip have the highest scores."""
    return Scored(torch.arange(stream.mask.shape[1]).expand(stream.mask.shape).float())


def latest_flops(shape: Shape, sieve: Sieve | None, tokens: int) -> float:
    return SCORING


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """The registry as it was before the test."""
    reducers, names, sieved = dict(REDUCERS), list(REDUCER_NAMES), set(SIEVED)
    yield
    REDUCERS.clear()
    REDUCERS.update(reducers)
    REDUCER_NAMES[:] = names
    SIEVED.clear()
    SIEVED.update(sieved)


def test_a_registered_reducer_answers_by_name() -> None:
    model, clip = tinymodel.model(), tinymodel.clip()
    with pytest.raises(OptionError, match="Unknown reducer 'latest'"):
        model.ask(clip, "Who?", reducer="latest")
    register("latest", Reducer(Scorer(latest, latest_flops)))
    answer = model.ask(clip, "Who?", reducer="latest", keep=0.1, generate=SHORT)
    stream = tinymodel.asked(model, clip, "Who?")
    staged = model.generate(stream.take(Reducer(Scorer(latest)).choose(model.backbone, None, stream, 0.1)), SHORT)
    assert (answer.text, answer.kept_times) == (staged.text, staged.kept_times)
    assert answer.options.reducer == "latest" and min(answer.kept_times.all) > 2
    plain = model.ask(clip, "Who?", reducer="uniform", keep=0.1, generate=SHORT).report.flops
    assert (
        answer.report.flops.reduced == pytest.approx(plain.reduced + SCORING) and answer.report.flops.full == plain.full
    )


def test_a_registered_reducer_is_evaluated_by_name(film: Path) -> None:
    register("latest", Reducer(Scorer(latest)))
    model = tinymodel.model()
    rows = [Row(str(i), film, question, "cat", "who", "listen") for i, question in enumerate(("Who?", "Which?"))]
    (run,) = evaluate(model, rows, [Setting("latest", 0.2)], generate=SHORT)
    answers = [model.ask(film, row.question, reducer="latest", keep=0.2, generate=SHORT).text for row in rows]
    assert [outcome.answer for outcome in run.outcomes] == answers
    assert run.tokens.kept_ratio == pytest.approx(0.2, abs=0.01) and run.score.failed == 0


def test_a_registered_reducer_that_needs_a_sieve_is_refused_without_one() -> None:
    register("sieved", Reducer(Scorer(latest, needs_sieve=True)))
    bare = EchoingPixels(tinymodel.backbone())
    with pytest.raises(ModelError, match="no sieve"):
        bare.ask(tinymodel.clip(), "Who?", reducer="sieved", generate=SHORT)
    assert tinymodel.model().ask(tinymodel.clip(), "Who?", reducer="sieved", generate=SHORT).token_ids
    register("sieved", Reducer(Scorer(latest)))  # replaces the first
    assert REDUCER_NAMES.count("sieved") == 1
    assert bare.ask(tinymodel.clip(), "Who?", reducer="sieved", generate=SHORT).token_ids


class Entry:
    """An entry point of another package."""

    module, dist = "other.reducers", None

    def __init__(self, name: str, found: object) -> None:
        self.name, self.found, self.value = name, found, f"{self.module}:REDUCER"

    def load(self) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """Reducers of other packages, installed by adding to the list."""
    installed: list[Entry] = []
    monkeypatch.setattr(metadata, "entry_points", lambda group: installed if group == GROUP else [])
    monkeypatch.setattr(reducer_names, "PLUGINS", {})
    monkeypatch.setattr(registry_module, "PLUGINS", reducer_names.PLUGINS)
    return installed


def test_a_reducer_of_another_package_is_loaded_when_its_name_is_given(entry_points: list[Entry]) -> None:
    entry_points += [Entry("latest", Reducer(Scorer(latest))), Entry("broken", ImportError("no module named x"))]
    assert AskOptions("uniform").reducer == "uniform" and not reducer_names.PLUGINS
    answer = tinymodel.model().ask(tinymodel.clip(), "Who?", reducer="latest", keep=0.1, generate=SHORT)
    assert min(answer.kept_times.all) > 2
    assert list(reducer_names.PLUGINS) == ["latest"]
    entry_points.append(Entry("sieved", Reducer(Scorer(latest, needs_sieve=True))))
    with pytest.raises(ModelError, match="no sieve"):
        EchoingPixels(tinymodel.backbone()).ask(tinymodel.clip(), "Who?", reducer="sieved", generate=SHORT)
    with pytest.raises(OptionError) as error:
        AskOptions("none such")
    assert "broken" in error.value.hint and "latest" in error.value.hint


@pytest.mark.parametrize("found", [ImportError("no module named x\nsecond line"), latest, None])
def test_a_broken_reducer_of_another_package_is_one_line(entry_points: list[Entry], found: object) -> None:
    entry_points.append(Entry("broken", found))
    with pytest.raises(
        EpError, match=r"The reducer 'broken' of other\.reducers (cannot be loaded|is no Reducer)"
    ) as error:
        AskOptions("broken")
    assert "\n" not in str(error.value) and "other.reducers" in error.value.hint


def test_options_refuse_an_unknown_reducer_and_accept_it_once_registered() -> None:
    with pytest.raises(OptionError) as error:
        AskOptions("latest")
    assert all(name in error.value.hint for name in REDUCER_NAMES)
    register("latest", Reducer(Scorer(latest)))
    assert AskOptions("latest").reducer == "latest"
