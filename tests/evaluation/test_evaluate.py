"""Scoring a model on questions with known answers: what runs, what is shared, what fails, what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echoingpixels import batching
from echoingpixels.datasets.questions import Row
from echoingpixels.errors import ModelError, OptionError, OutOfMemoryError
from echoingpixels.evaluation import evaluate as under_test
from echoingpixels.evaluation.evaluate import Outcome, evaluate
from echoingpixels.media import stream_clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions, MediaOptions
from echoingpixels.reducers.setting import Setting, settings
from echoingpixels.report import STAGES, StageTimes, Tokens
from tests.support import clips, tinymodel
from tests.support.program import Program

SHORT = GenerateOptions(max_new_tokens=4)
HALF = [Setting("full", 1.0), Setting("cs2", 0.3)]
QUESTIONS = ("Who?", "Which object appears first?", "Is the bell heard?", "How many times does the drum play?")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two clips, one without sound."""
    folder = tmp_path_factory.mktemp("films")
    track = clips.Track(clips.beep(2.0, 1.0))
    made = (clips.Film(seconds=2.0, tracks=(track,)), clips.Film(seconds=3.0))
    return [clips.write(folder / f"{i}.mp4", film) for i, film in enumerate(made)]


@pytest.fixture
def model() -> EchoingPixels:
    return tinymodel.model()


class Recorder:
    """A reader that records the clips it reads."""

    def __init__(self) -> None:
        self.clips: list[tuple[str, float | None, float | None]] = []

    def __call__(self, path: Path, options: MediaOptions, **more: Any) -> Any:
        self.clips.append((path.name, options.start, options.end))
        return stream_clip(path, options, **more)


def rows(films: list[Path], questions: tuple[str, ...] = QUESTIONS) -> list[Row]:
    """Every question about every film, one film after the other and back again."""
    kinds = ("who", "first", "exists", "count")
    return [
        Row(f"{film.stem}-{i}", film, question, "cat", kinds[i % 4], "listen" if i % 2 else "watch")
        for i, question in enumerate(questions)
        for film in films
    ]


def collect(model: EchoingPixels, asked: list[Row], chosen: list[Setting], **more: Any) -> list[Outcome]:
    found: list[Outcome] = []
    evaluate(model, asked, chosen, generate=SHORT, on_outcome=found.append, **more)
    return found


@pytest.mark.parametrize(
    ("reducers", "keeps", "expected"),
    [
        (["cs2"], [1, 0.2], [("full", 1), ("cs2", 0.2)]),
        (["cs2", "uniform"], [1, 0.2, 0.1], [("full", 1), *((r, k) for r in ("cs2", "uniform") for k in (0.2, 0.1))]),
        (["cs2"], [0.2], [("cs2", 0.2)]),
        (["full"], [0.2], [("full", 1)]),
        (["full", "cs2"], [1, 0.5], [("full", 1), ("cs2", 0.5)]),
        (["cs2"], [1], [("full", 1)]),
        (["cs2", "cs2"], [0.2, 0.2], [("cs2", 0.2)]),
    ],
)
def test_a_ratio_of_one_is_one_run_with_all_tokens(
    reducers: list[str], keeps: list[float], expected: list[tuple[str, float]]
) -> None:
    assert [(one.reducer, one.keep) for one in settings(reducers, keeps)] == expected


def test_settings_are_checked() -> None:
    with pytest.raises(OptionError, match="Unknown reducer"):
        settings(["best"], [0.2])
    with pytest.raises(OptionError, match="outside"):
        settings(["cs2"], [0.2, 0])


def test_every_clip_is_decoded_and_encoded_once(
    films: list[Path], model: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, real, reader = [], model.encode_pieces, Recorder()
    monkeypatch.setattr(model, "encode_pieces", lambda *clip: encoded.append(clip) or real(*clip))
    evaluate(model, rows(films), [*HALF, Setting("uniform", 0.2)], generate=SHORT, reader=reader)
    assert reader.clips == [("0.mp4", None, None), ("1.mp4", None, None)]
    assert len(encoded) == 2


def test_parts_of_a_clip_are_clips_of_their_own(films: list[Path], model: EchoingPixels) -> None:
    asked = [
        Row("a", films[0], "Who?", "cat", start=0.0, end=1.0),
        Row("b", films[0], "Who?", "cat", start=1.0, end=2.0),
        Row("c", films[0], "Is the bell heard?", "yes", start=0.0, end=1.0),
    ]
    reader = Recorder()
    assert len(collect(model, asked, HALF[:1], reader=reader)) == 3
    assert reader.clips == [("0.mp4", 0.0, 1.0), ("0.mp4", 1.0, 2.0)]


@pytest.mark.parametrize("reducer", ["full", "cs2", "uniform", "random", "repeats", "fastv", "relevance"])
@pytest.mark.parametrize("at_once", [16_384, 1000, 1])
def test_a_batch_of_questions_is_answered_as_each_alone(
    films: list[Path], model: EchoingPixels, reducer: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Setting(reducer, 0.3)
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", at_once)
    asked = rows(films)
    together = {outcome.row.id: outcome.answer for outcome in collect(model, asked, [chosen])}
    alone = {row.id: collect(model, [row], [chosen])[0].answer for row in asked}
    assert together == alone
    clip = model.encode(films[0])
    asked_of = [(clip, question) for question in QUESTIONS]
    by_ask = model.answer(asked_of, reducer=chosen.reducer, keep=chosen.keep, generate=SHORT)
    assert [answer.text for answer in by_ask] == [together[row.id] for row in asked if row.media == films[0]]


def test_right_and_wrong_are_counted_by_kind_and_regime(
    films: list[Path], model: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "is_right", lambda answer, expected: expected == "right")
    asked = [replace(row, answer="wrong" if row.kind == "who" else "right") for row in rows(films)]
    (run,) = evaluate(model, asked, HALF[:1], generate=SHORT)
    by_kind = {kind: score.accuracy for kind, score in run.by_kind.items()}
    assert by_kind == {"who": 0.0, "first": 1.0, "exists": 1.0, "count": 1.0}
    assert {regime: score.accuracy for regime, score in run.by_regime.items()} == {"watch": 0.5, "listen": 1.0}
    assert (run.score.accuracy, run.score.questions, run.score.failed) == (0.75, 8, 0)


def test_tokens_are_counted_by_regime(films: list[Path], model: EchoingPixels) -> None:
    asked = rows(films)
    (run,) = evaluate(model, asked, HALF[:1], generate=SHORT)
    assert Tokens.total(run.tokens_by_regime.values()) == run.tokens
    for regime, tokens in run.tokens_by_regime.items():
        (alone,) = evaluate(model, [row for row in asked if row.regime == regime], HALF[:1], generate=SHORT)
        assert alone.tokens == tokens
    assert run.tokens_by_regime.keys() == {"watch", "listen"}


def test_a_failed_clip_is_reported_and_scores_nothing(films: list[Path], model: EchoingPixels, tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    lost = [
        Row("x", empty, "Who?", "cat", "who"),
        Row("y", tmp_path / "gone.mp4", "Who?", "cat", "lost"),
        Row("z", films[0], "Who?", "cat", "who", start=50.0),
    ]
    found: list[Outcome] = []
    runs = evaluate(model, [*lost, *rows(films)], HALF, generate=SHORT, on_outcome=found.append)
    whole = evaluate(model, rows(films), HALF, generate=SHORT)
    for run, without in zip(runs, whole, strict=True):
        assert (run.score.questions, run.score.failed) == (11, 3)
        assert run.score.accuracy == without.score.accuracy and run.score.interval == without.score.interval
        assert run.by_kind["lost"].accuracy is None and run.by_kind["lost"].failed == 1
        assert run.tokens == without.tokens
    errors = {outcome.row.id: outcome.error or "" for outcome in found if outcome.right is None}
    assert errors.keys() == {"x", "y", "z"}
    assert "0 bytes" in errors["x"] and "gone.mp4" in errors["y"] and "past the end" in errors["z"]
    assert all(outcome.answer is None for outcome in found if outcome.error)


def out_of_memory(model: EchoingPixels, monkeypatch: pytest.MonkeyPatch, fits: Callable[[Any], bool]) -> None:
    """Have the model run out of memory where it selects tokens of a stream that does not fit."""
    real = model.select

    def select(stream: Any, *how: Any) -> Any:
        if not fits(stream):
            raise OutOfMemoryError("It needs more memory than is free.", "Give a smaller --max-frames.")
        return real(stream, *how)

    monkeypatch.setattr(model, "select", select)


def test_a_batch_that_does_not_fit_is_answered_one_question_at_a_time(
    films: list[Path], model: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {outcome.row.id: outcome for outcome in collect(model, rows(films), HALF[1:])}
    out_of_memory(model, monkeypatch, lambda stream: stream.kind.shape[0] == 1)
    assert {outcome.row.id: outcome for outcome in collect(model, rows(films), HALF[1:])} == whole


def test_a_clip_that_does_not_fit_fails_alone(
    films: list[Path], model: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rows(films)
    (whole,) = evaluate(model, asked, HALF[:1], generate=SHORT)
    longest = max(model.encode(stream_clip(film)).media.span.tokens for film in films)
    out_of_memory(model, monkeypatch, lambda stream: int(stream.pool.sum(1).max()) < longest)
    (run,) = evaluate(model, asked, HALF[:1], generate=SHORT)
    failed = [outcome for outcome in run.outcomes if outcome.error]
    assert len({outcome.row.media for outcome in failed}) == 1 and len(failed) == run.score.failed == 4
    assert {outcome.error for outcome in failed} == {"It needs more memory than is free."}
    answered = [outcome for outcome in run.outcomes if not outcome.error]
    assert answered == [one for one in whole.outcomes if one.row.media != failed[0].row.media]


def test_what_is_known_before_is_not_asked_again(films: list[Path], model: EchoingPixels) -> None:
    asked = rows(films)
    whole = evaluate(model, asked, HALF, generate=SHORT)
    before = {(one.row.id, one.setting): one for run in whole for one in run.outcomes}
    rest = {("1-2", HALF[1]), ("1-3", HALF[0])}
    found: list[Outcome] = []
    reader = Recorder()
    again = evaluate(
        model, asked, HALF, generate=SHORT, on_outcome=found.append, reader=reader,
        known=lambda row, setting: None if (row.id, setting) in rest else before[row.id, setting],
    )  # fmt: skip
    assert {(one.row.id, one.setting) for one in found} == rest and reader.clips == [("1.mp4", None, None)]
    assert [replace(run, time_s=StageTimes()) for run in again] == [replace(run, time_s=StageTimes()) for run in whole]


def test_tokens_and_times_are_summed(films: list[Path], model: EchoingPixels) -> None:
    runs = evaluate(model, rows(films), HALF, generate=SHORT)
    full, reduced = (run.tokens for run in runs)
    assert full.kept_ratio == 1 and full.video.before == full.video.after == reduced.video.before
    assert reduced.kept_ratio == pytest.approx(0.3, abs=0.02)
    assert reduced.text == full.text
    for run in runs:
        spent = run.time_s.known()
        assert run.time_s.total == pytest.approx(sum(spent.values()))
        assert set(spent) == {*STAGES} - {"load", "evidence"} and all(seconds > 0 for seconds in spent.values())


def test_the_seconds_of_a_clip_count_also_where_its_questions_fail(
    films: list[Path], model: EchoingPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory(model, monkeypatch, lambda stream: False)
    (run,) = evaluate(model, rows(films), HALF[:1], generate=SHORT)
    spent = run.time_s.known()
    assert run.score.failed == 8 and set(spent) == {"decode", "prepare", "encode"} and all(spent.values())


def test_progress_goes_up_to_the_number_of_clips(films: list[Path], model: EchoingPixels) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(model, rows(films), HALF[:1], generate=SHORT, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_cs2_without_a_sieve_fails_before_any_clip_is_read(films: list[Path]) -> None:
    reader = Recorder()
    with pytest.raises(ModelError, match="no sieve"):
        evaluate(EchoingPixels(tinymodel.backbone()), rows(films), HALF, reader=reader)
    assert reader.clips == []


@pytest.fixture
def data(films: list[Path], tmp_path: Path) -> Callable[..., Path]:
    """A question file over the films and a missing one."""

    def write(*extra: dict[str, Any]) -> Path:
        path = films[0].parent / f"{tmp_path.name}.jsonl"
        asked = [
            {"id": f"q{i}", "media": film.name, "question": "Who?", "answer": "cat", "kind": "who", "regime": "watch"}
            for i, film in enumerate(films)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*asked, *extra]))
        return path

    return write


def test_the_command_prints_the_contracts_json(data: Callable[..., Path], tiny: str, ep: Program) -> None:
    path = data({"id": "lost", "media": "gone.mp4", "question": "Who?", "answer": "cat"})
    done = ep("evaluate", path, "--model", tiny, "--json", "--max-new-tokens", "2", "--reducer", "cs2,uniform")
    assert done.code == 3  # a row failed
    said = json.loads(done.out)
    assert set(said) == {"model", "data", "runs"}
    assert (said["model"], said["data"]) == (tiny, str(path))
    assert [(run["reducer"], run["keep"]) for run in said["runs"]] == [("full", 1), ("cs2", 0.2), ("uniform", 0.2)]
    for run in said["runs"]:
        wanted = "reducer keep accuracy interval questions failed by_kind by_regime tokens time_s paired marks"
        assert set(run) == {*wanted.split(), "tokens_by_regime", "unparsed"}
        assert (run["questions"], run["failed"]) == (3, 1)
        assert set(run["by_kind"]["who"]) == {"accuracy", "interval", "questions", "failed", "unparsed"}
        assert run["tokens"]["kept_ratio"] == pytest.approx(run["keep"], abs=0.02)
        assert [mark["id"] for mark in run["marks"]] == ["q0", "q1", "lost"] and run["marks"][2]["right"] is None
        paired = [(one["baseline"], one["reducer"], one["questions"], one["failed"]) for one in run["paired"]]
        assert paired == ([] if run["reducer"] == "full" else [(None, "full", 3, 1)])
    assert "gone.mp4" in done.err and "3 of 3" in done.err


def test_the_command_writes_every_answer(data: Callable[..., Path], tiny: str, tmp_path: Path, ep: Program) -> None:
    out = tmp_path / "answers.jsonl"
    path = data({"id": "lost", "media": "gone.mp4", "question": "Who?", "answer": "cat"})
    done = ep("evaluate", path, "--model", tiny, "--max-new-tokens", "2", "--out", out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert done.code == 3 and len(lines) == 6
    assert {(line["id"], line["reducer"]) for line in lines} == {
        (name, reducer) for name in ("q0", "q1", "lost") for reducer in ("full", "cs2-maxmin")
    }
    for line in lines:
        assert line["expected"] == "cat"
        assert (line["right"] is None) == (line["answer"] is None) == (line["id"] == "lost")
        assert bool(line["error"]) == (line["id"] == "lost")


def test_the_command_compares_with_what_it_wrote_before(
    data: Callable[..., Path], tiny: str, tmp_path: Path, ep: Program
) -> None:
    answers, report = tmp_path / "answers.jsonl", tmp_path / "report.json"
    run = ("evaluate", data({"id": "lost", "media": "gone.mp4", "question": "Who?", "answer": "cat"}), "--model", tiny)
    short = ("--max-new-tokens", "2", "--json")
    report.write_text(ep(*run, *short, "--out", answers).out)
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    answers.write_text("".join(json.dumps({**line, "right": line["right"] and None}) + "\n" for line in lines[:-1]))
    for other in (answers, report):
        done = ep(*run, *short, "--keep", "0.2", "--baseline", other)
        (paired,) = json.loads(done.out)["runs"][0]["paired"]
        assert (paired["baseline"], paired["reducer"], paired["keep"]) == (str(other), "cs2-maxmin", 0.2)
        assert (paired["questions"], paired["gained"], paired["lost"]) == (3 - (other == answers), 0, 0)
        assert paired["unmatched"] == {"here": int(other == answers), "there": 0}
    assert paired["difference"] == 0.0 and paired["by_kind"]["who"]["questions"] == 2
    done = ep(*run, *short[:2], "--keep", "0.2", "--baseline", report, "--baseline-run", "full:1")
    (row,) = [line for line in done.out.splitlines() if "full 1" in line]
    assert row.startswith("cs2-maxmin  0.2") and "kind, to baseline" in done.out


def test_the_command_prints_plain_tables_in_a_pipe(data: Callable[..., Path], tiny: str, ep: Program) -> None:
    done = ep("evaluate", data(), "--model", tiny, "--max-new-tokens", "2", "--limit", "1")
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].split()[:3] == ["reducer", "keep", "right"]
    assert lines[1].split()[:2] == ["full", "1"] and lines[2].split()[:2] == ["cs2-maxmin", "0.2"]
    assert any(line.startswith("who ") for line in lines) and any(line.startswith("watch ") for line in lines)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--keep", "1,0"), 2, "keep is 0"),
        (("--keep", "1;0.2"), 2, "1;0.2"),
        (("--reducer", "cs2,best"), 2, "'best'"),
        (("--limit", "0"), 2, "--limit"),
        (("--baseline-run", "full:1"), 2, "--baseline"),
        (("--baseline", "no/such/file.json"), 1, "cannot be read"),
        (("--out", "no/such/folder/out.jsonl"), 1, "cannot be written"),
    ],
)
def test_the_command_checks_its_options(
    options: tuple[str, ...], code: int, said: str, data: Callable[..., Path], tiny: str, ep: Program
) -> None:
    done = ep("evaluate", data(), "--model", tiny, *options)
    assert done.code == code
    assert said in done.err.splitlines()[0]


def test_the_command_names_the_bad_line(data: Callable[..., Path], ep: Program) -> None:
    path = data({"media": "a.mp4", "question": "Who?"})
    done = ep("evaluate", path)
    assert done.code == 1
    assert f"{path}, line 3 has no answer" in done.err
