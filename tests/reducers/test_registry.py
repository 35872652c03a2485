"""A reducer is added in one call, and then works by name wherever a reducer is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from echoingpixels.backbones.base import Backbone, Shape
from echoingpixels.datasets.questions import Row
from echoingpixels.errors import ModelError, OptionError
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.inputs.token_stream import Selection, TokenStream, budget, top_k
from echoingpixels.model import EchoingPixels
from echoingpixels.options import REDUCER_NAMES, SIEVED, AskOptions, GenerateOptions
from echoingpixels.reducers.cs2 import Sieve
from echoingpixels.reducers.registry import REDUCERS, Reducer, register
from echoingpixels.reducers.setting import Setting
from tests.support import tinymodel

SHORT = GenerateOptions(max_new_tokens=3)
SCORING = 1e12  # floating-point operations


def latest(backbone: Backbone, sieve: Sieve | None, stream: TokenStream, keep: float) -> Selection:
    """Keep the last tokens of the clip."""
    order = torch.arange(stream.mask.shape[1]).expand(stream.mask.shape).float()
    return Selection(top_k(order, stream.pool, budget(stream.pool, keep)) | (stream.mask & ~stream.pool))


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
    register("latest", Reducer(latest, latest_flops))
    answer = model.ask(clip, "Who?", reducer="latest", keep=0.1, generate=SHORT)
    stream = tinymodel.asked(model, clip, "Who?")
    staged = model.generate(stream.take(latest(model.backbone, None, stream, 0.1)), SHORT)
    assert (answer.text, answer.kept_times) == (staged.text, staged.kept_times)
    assert answer.options.reducer == "latest" and min(answer.kept_times.all) > 2
    plain = model.ask(clip, "Who?", reducer="uniform", keep=0.1, generate=SHORT).report.flops
    assert (
        answer.report.flops.reduced == pytest.approx(plain.reduced + SCORING) and answer.report.flops.full == plain.full
    )


def test_a_registered_reducer_is_evaluated_by_name(film: Path) -> None:
    register("latest", Reducer(latest))
    model = tinymodel.model()
    rows = [Row(str(i), film, question, "cat", "who", "listen") for i, question in enumerate(("Who?", "Which?"))]
    (run,) = evaluate(model, rows, [Setting("latest", 0.2)], generate=SHORT)
    answers = [model.ask(film, row.question, reducer="latest", keep=0.2, generate=SHORT).text for row in rows]
    assert [outcome.answer for outcome in run.outcomes] == answers
    assert run.tokens.kept_ratio == pytest.approx(0.2, abs=0.01) and run.score.failed == 0


def test_a_registered_reducer_that_needs_a_sieve_is_refused_without_one() -> None:
    register("sieved", Reducer(latest, needs_sieve=True))
    bare = EchoingPixels(tinymodel.backbone())
    with pytest.raises(ModelError, match="no sieve"):
        bare.ask(tinymodel.clip(), "Who?", reducer="sieved", generate=SHORT)
    assert tinymodel.model().ask(tinymodel.clip(), "Who?", reducer="sieved", generate=SHORT).token_ids
    register("sieved", Reducer(latest))  # replaces the first
    assert REDUCER_NAMES.count("sieved") == 1
    assert bare.ask(tinymodel.clip(), "Who?", reducer="sieved", generate=SHORT).token_ids


def test_options_refuse_an_unknown_reducer_and_accept_it_once_registered() -> None:
    with pytest.raises(OptionError) as error:
        AskOptions("latest")
    assert all(name in error.value.hint for name in REDUCER_NAMES)
    register("latest", Reducer(latest))
    assert AskOptions("latest").reducer == "latest"
