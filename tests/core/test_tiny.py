"""The bundled model is a real one: it answers fresh clips, read from real files, and the bundled one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.datasets.questions import read_rows
from echoingpixels.errors import ModelError
from echoingpixels.evaluation.evaluate import Run, evaluate
from echoingpixels.from_pretrained import load
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import NO_SIEVE
from echoingpixels.reducer_names import UNSIEVED
from echoingpixels.reducers.setting import settings
from echoingpixels.synth.dataset import generate
from tests.support.program import Program

FRESH_SEED = 424_242  # neither trained on nor used for docs/results.md
CLIPS = 40
LIMIT = 25 * 10**6  # bytes


@pytest.fixture(scope="module")
def runs(tiny_model: EchoingPixels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    data = generate(tmp_path_factory.mktemp("fresh"), CLIPS, FRESH_SEED, 3)
    made = evaluate(tiny_model, read_rows(data), settings(["cs2", "random"], [1.0, 0.2]))
    return {run.setting.reducer: run for run in made}


def test_it_answers_fresh_clips_from_all_tokens(runs: dict[str, Run]) -> None:
    score = runs["full"].score
    assert score.accuracy is not None and score.accuracy >= 0.82
    assert score.failed == 0 and score.questions >= 100


def test_it_answers_fresh_clips_from_a_fifth_of_the_tokens(runs: dict[str, Run]) -> None:
    score, tokens = runs["cs2"].score, runs["cs2"].tokens
    assert score.accuracy is not None and score.accuracy >= 0.8
    assert tokens.kept_ratio == pytest.approx(0.2, abs=0.01)


def test_it_is_small_enough_to_bundle() -> None:
    assert sum(path.stat().st_size for path in (ASSETS / "tiny").rglob("*")) < LIMIT


def test_it_answers_the_bundled_clip_right(tiny_model: EchoingPixels) -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    question = next(line.split(":=")[1].strip() for line in makefile.splitlines() if line.startswith("QUESTION"))
    expected = next(line.split(":=")[1].strip() for line in makefile.splitlines() if line.startswith("ANSWER"))
    clip = read_clip(ASSETS / "demo.mp4")
    assert len(clip.frames) and clip.audio is not None
    for keep in (0.2, 0.1):
        assert tiny_model.ask(clip, question, keep=keep).text == expected


def test_without_its_sieve_it_has_the_default_of_public_weights_and_the_same_decoder(tiny_model: EchoingPixels) -> None:
    bare, clip = load("tiny", sieve=NO_SIEVE), read_clip(ASSETS / "demo.mp4")
    assert bare.sieve is None and not bare.notes(UNSIEVED)
    answers = [model.ask(clip, "Which object appears first?", reducer="full") for model in (tiny_model, bare)]
    assert answers[0].token_ids == answers[1].token_ids
    assert bare.ask(clip, "Which object appears first?", keep=0.1).options.reducer == UNSIEVED
    with pytest.raises(ModelError, match="no sieve weights"):
        bare.ask(clip, "Which object appears first?", reducer="cs2")


def test_the_command_line_loads_it_without_its_sieve(ep: Program) -> None:
    asked = ("ask", ASSETS / "demo.mp4", "Which object appears first?", "--sieve", NO_SIEVE, "--json")
    for more in ((), ("--dry-run",)):
        assert json.loads(ep(*asked, *more).out)["reducer"] == UNSIEVED
    refused = ep(*asked, "--reducer", "cs2-maxmin")
    assert refused.code == 1 and "no sieve weights" in refused.err
