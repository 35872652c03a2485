"""A batch on this machine: equal to single answers, each once, and no clip's failure is another's."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels import batching
from echoingpixels import model as model_module
from echoingpixels.batch import opening
from echoingpixels.batch.job import Task, Wanted
from echoingpixels.batch.journal import Journal
from echoingpixels.batch.run import run
from echoingpixels.batching import Prompt
from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.errors import DataError, ModelError
from echoingpixels.media import read_clip
from echoingpixels.media.clip import Pieces, whole
from echoingpixels.model import EchoingPixels
from tests.support import clips, tinymodel
from tests.support.batches import QUESTIONS, SHORT, Near, answer, job, rows, tasks


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three clips of different lengths, one without sound."""
    folder = tmp_path_factory.mktemp("films")
    sound = clips.Track(clips.beep(2.0, 1.0))
    made = (clips.Film(seconds=2.0, tracks=(sound,)), clips.Film(seconds=3.0), clips.Film(seconds=1.0, tracks=(sound,)))
    return [clips.write(folder / f"{i}.mp4", film) for i, film in enumerate(made)]


@pytest.fixture
def model() -> EchoingPixels:
    return tinymodel.model()


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Clips are read in this process; gives the names of those that were."""
    read: list[str] = []

    class Spy(Near):
        def stream(self, path: str | Path, options: Any, **more: Any) -> Pieces:
            read.append(Path(path).name)
            return super().stream(path, options, **more)

    monkeypatch.setattr(opening, "Worker", Spy)
    yield read


def test_a_row_is_another_one_with_another_sieve(films: list[Path], model: EchoingPixels) -> None:
    (task,), chosen = tasks(films[0]), job(model)
    other = replace(chosen, weights=replace(chosen.weights, sieve="of another rotary split"))
    assert chosen.key("clip", task, "Who?") != other.key("clip", task, "Who?")


@pytest.mark.parametrize("reducer", ["full", "cs2", "uniform"])
@pytest.mark.parametrize(("at_once", "workers"), [(16_384, 2), (400, 1), (1, 1)])
def test_a_batch_answers_as_each_question_alone(
    films: list[Path], model: EchoingPixels, reducer: str, at_once: int, workers: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", at_once)
    chosen = job(model, reducer=reducer)
    tally = answer(model, chosen, tasks(*films), tmp_path / "out.jsonl", workers=workers)
    got = {(row["media"], row["question"]): row for row in rows(tmp_path / "out.jsonl")}
    assert tally.answered == len(got) == 9 and tally.failed == 0
    for film in films:
        clip = model.encode(read_clip(film, chosen.read))
        for question in QUESTIONS:
            said = clip.ask(question, reducer=reducer, keep=0.3, generate=SHORT)
            row = got[str(film), question]
            assert (row["answer"], row["finish_reason"]) == (said.text, said.finish_reason)
            assert row["kept_ratio"] == said.report.tokens.kept_ratio
            assert row["tokens"]["audio"]["after"] == said.report.tokens.audio.after
            assert row["said"] == len(said.token_ids)
            assert {key: row[key] for key in ("evidence", "no_evidence")} == said.evidence.as_dict()
    later = sum(row["said"] - 1 for row in got.values())
    assert tally.tokens_per_s == pytest.approx(later / sum(row["time_s"]["generate"] for row in got.values()))
    if at_once == 1:
        for row in got.values():  # an answer of one token has no rate
            later, seconds = row["said"] - 1, row["time_s"]["generate"]
            assert row["tokens_per_s"] == (later / seconds if later else None)


def test_a_clip_with_many_questions_is_decoded_and_encoded_once(
    films: list[Path], model: EchoingPixels, near: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, real = [], model.encode_pieces
    monkeypatch.setattr(model, "encode_pieces", lambda clip, *rest: encoded.append(clip) or real(clip, *rest))
    answer(model, job(model), tasks(*films), tmp_path / "out.jsonl")
    assert sorted(near) == ["0.mp4", "1.mp4", "2.mp4"] and len(encoded) == 3
    counted = [row for row in rows(tmp_path / "out.jsonl") if row["time_s"]["decode"] > 0]
    assert len(counted) == 3 and all(row["time_s"]["encode"] > 0 for row in counted)


def test_what_fails_is_told_in_its_rows_and_the_others_go_on(
    films: list[Path], model: EchoingPixels, tmp_path: Path
) -> None:
    empty, gone = tmp_path / "empty.mp4", tmp_path / "gone.mp4"
    empty.touch()
    late = replace(tasks(films[0])[0], start=50.0)
    tally = answer(model, job(model), [*tasks(empty, gone), late, *tasks(*films)], tmp_path / "out.jsonl")
    assert (tally.answered, dict(tally.failures)) == (9, {"MediaError": 6, "OptionError": 3})
    failed = [row for row in rows(tmp_path / "out.jsonl") if row["error"]]
    assert {row["media"] for row in failed} == {str(empty), str(gone), str(films[0])}
    for row in failed:
        assert row["answer"] is None and row["tokens"] is None
        assert row["error"]["message"] and row["error"]["hint"]


def test_resuming_skips_what_is_done_and_repeats_what_failed(
    films: list[Path], model: EchoingPixels, near: list[str], tmp_path: Path
) -> None:
    out, bad = tmp_path / "out.jsonl", tmp_path / "bad.mp4"
    bad.touch()
    answer(model, job(model), tasks(films[0], bad), out)
    near.clear()
    left_out = answer(model, job(model), tasks(films[0], bad, films[1]), out, resume=True, retry=False)
    assert near == ["1.mp4"] and (left_out.skipped, left_out.answered, left_out.failed) == (6, 3, 0)
    shutil.copy(films[2], bad)
    repeated = answer(model, job(model), tasks(films[0], bad, films[1]), out, resume=True)
    assert near == ["1.mp4", "bad.mp4"] and (repeated.skipped, repeated.answered, repeated.failed) == (6, 3, 0)
    final = rows(out)
    assert len(final) == len({(row["key"], row["id"]) for row in final}) == 9
    assert not any(row["error"] for row in final)


def test_nothing_is_loaded_where_nothing_is_left(films: list[Path], model: EchoingPixels, tmp_path: Path) -> None:
    answer(model, job(model), tasks(films[0]), tmp_path / "out.jsonl")
    tally = answer(None, job(model), tasks(films[0]), tmp_path / "out.jsonl", resume=True)  # type: ignore[arg-type]
    assert (tally.skipped, tally.done, tally.answered) == (3, 3, 0)


def test_other_settings_are_other_rows(films: list[Path], model: EchoingPixels, tmp_path: Path) -> None:
    out, asked = tmp_path / "out.jsonl", tasks(films[0], questions=("Who?",))
    first = job(model)
    others = [
        replace(first, ask=replace(first.ask, keep=0.5)),
        replace(first, ask=replace(first.ask, reducer="uniform")),
        replace(first, read=replace(first.read, fps=1.0)),
        replace(first, weights=replace(first.weights, model="other")),
        replace(first, weights=replace(first.weights, sieve=None)),
    ]
    answer(model, first, asked, out)
    for n, other in enumerate(others, 2):
        assert answer(model, other, asked, out, resume=True).answered == 1
        assert len({row["key"] for row in rows(out)}) == n
    assert answer(model, first, asked, out, resume=True).skipped == 1


def test_a_clip_that_was_moved_is_known_and_a_copy_is_answered(
    films: list[Path], model: EchoingPixels, near: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    here, there, copy = (tmp_path / name for name in ("here.mp4", "there.mp4", "copy.mp4"))
    shutil.copy(films[0], here)
    answer(model, job(model), tasks(here), out)
    here.rename(there)
    assert answer(model, job(model), tasks(there), out, resume=True).skipped == 3
    shutil.copy(there, here)
    shutil.copy(there, copy)
    tally = answer(model, job(model), tasks(copy, here), out, resume=True)
    assert (tally.skipped, tally.answered) == (3, 3)
    assert {row["media"] for row in rows(out)} == {str(here), str(copy)}


def test_rows_keep_their_own_ids(films: list[Path], model: EchoingPixels, tmp_path: Path) -> None:
    asked = [Task(str(films[0]), (Wanted("a", "Who?"), Wanted("b", "Who?"), Wanted("c", "Is the bell heard?")))]
    answer(model, job(model), asked, tmp_path / "out.jsonl")
    assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == ["a", "b", "c"]


def limit_frames(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = model_module.encode_pieces

    def encode(model: EchoingPixels, pieces: Pieces, *rest: Any) -> EncodedClip:
        clip = whole(pieces)
        if len(clip.frames) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, clip.pieces(), *rest)

    monkeypatch.setattr(model_module, "encode_pieces", encode)


def test_a_clip_that_does_not_fit_in_memory_is_tried_with_half_its_frames(
    films: list[Path], model: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_frames(4, monkeypatch)  # the films have 4, 6 and 2
    asked = tasks(*films)
    answer(model, job(model), asked, tmp_path / "out.jsonl")
    told = {row["media"]: row for row in rows(tmp_path / "out.jsonl")}
    assert told[str(films[1])]["retried"] == "Memory ran out with 6 frames; this is from at most 3."
    assert told[str(films[1])]["answer"] is not None and told[str(films[0])]["retried"] is None
    assert answer(model, job(model), asked, tmp_path / "out.jsonl", resume=True).skipped == 9
    half = read_clip(films[1], replace(job(model).read, max_frames=3))
    alone = model.ask(half, QUESTIONS[-1], reducer="cs2", keep=0.3, generate=SHORT)
    assert told[str(films[1])]["answer"] == alone.text


def test_a_clip_whose_half_does_not_fit_either_fails(
    films: list[Path], model: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_frames(2, monkeypatch)
    tally = answer(model, job(model), tasks(*films), tmp_path / "out.jsonl")
    assert dict(tally.failures) == {"OutOfMemoryError": 3} and tally.answered == 6
    (said,) = {row["error"]["hint"] for row in rows(tmp_path / "out.jsonl") if row["error"]}
    assert "--max-frames" in said


def test_where_a_batch_does_not_fit_each_question_is_tried_alone(
    films: list[Path], model: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = model.select, []

    def select(stream: Any, *arguments: Any) -> Any:
        tried.append(tuple(stream.mask.shape))
        if stream.mask.numel() > 250:
            raise MemoryError
        return real(stream, *arguments)

    monkeypatch.setattr(model, "select", select)
    asked = tasks(films[0], questions=QUESTIONS[:2])
    tally = answer(model, job(model), asked, tmp_path / "out.jsonl")
    assert tally.answered == 2 and not any(row["retried"] for row in rows(tmp_path / "out.jsonl"))
    assert [batch for batch, _ in tried] == [2, 1, 1]


def test_a_fault_of_ours_fails_its_clip_alone(
    films: list[Path], model: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EncodedClip.prompt

    def prompt(clip: EncodedClip, question: str) -> Prompt:
        if question == "Boom?":
            raise RuntimeError("a fault")
        return real(clip, question)

    monkeypatch.setattr(EncodedClip, "prompt", prompt)
    asked = [*tasks(films[0], questions=("Boom?",)), *tasks(films[1])]
    tally = answer(model, job(model), asked, tmp_path / "out.jsonl")
    assert tally.answered == 3 and dict(tally.failures) == {"InternalError": 1}
    assert "a fault" in next(row["error"]["message"] for row in rows(tmp_path / "out.jsonl") if row["error"])


def test_a_model_that_cannot_be_loaded_ends_the_batch(films: list[Path], model: EchoingPixels, tmp_path: Path) -> None:
    def load() -> EchoingPixels:
        raise ModelError("random cannot be loaded.")

    out = tmp_path / "out.jsonl"
    answer(model, job(model), tasks(films[0]), out)
    with pytest.raises(ModelError), Journal(out, {str(films[1])}, resume=True) as journal:
        run(job(model), tasks(films[1]), journal, load)
    assert len(rows(out)) == 3


def test_once_told_to_stop_it_finishes_what_it_has_begun(
    films: list[Path], model: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", 1)
    out, seen = tmp_path / "out.jsonl", []
    tally = answer(model, job(model), tasks(*films), out, on_results=seen.append, stop=lambda: len(seen) >= 1)
    assert 1 <= tally.answered < 9 and len(rows(out)) == tally.answered
    finished = answer(model, job(model), tasks(*films), out, resume=True)
    assert finished.skipped == tally.answered and len(rows(out)) == 9


def test_a_full_disk_loses_nothing_that_was_written(
    films: list[Path], model: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", 1)
    out, room, real = tmp_path / "out.jsonl", [3000], os.write

    def write(file: int, data: Any) -> int:
        fits = bytes(data)[: room[0]]
        if not fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(fits)
        return real(file, fits)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(DataError, match="no space left on device") as error:
            answer(model, job(model), tasks(*films), out)
    assert "--resume" in error.value.hint
    written = len(rows(out))  # every line whole
    assert 0 < written < 9
    tally = answer(model, job(model), tasks(*films), out, resume=True)
    assert tally.skipped == written and len(rows(out)) == 9


def select_fails(model: EchoingPixels, monkeypatch: pytest.MonkeyPatch, tokens: int, error: Exception) -> None:
    """Fail where the model selects among more than `tokens` tokens."""
    real = model.select

    def select(stream: Any, *rest: Any) -> Any:
        if stream.mask.numel() > tokens:
            raise error
        return real(stream, *rest)

    monkeypatch.setattr(model, "select", select)


def test_an_answer_that_does_not_fit_in_memory_is_retried_with_half_the_frames(
    films: list[Path], model: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(model.encode(film).prompt(QUESTIONS[1]).tokens for film in films)
    select_fails(model, monkeypatch, longest - 1, MemoryError())
    asked = tasks(*films, questions=QUESTIONS[1:2])
    tally = answer(model, job(model), asked, tmp_path / "out.jsonl")
    found = {row["media"]: row for row in rows(tmp_path / "out.jsonl")}
    assert (tally.answered, tally.failed) == (3, 0)
    assert [media for media, row in found.items() if row["retried"]] == [
        str(film) for film in films if model.encode(film).prompt(QUESTIONS[1]).tokens == longest
    ]
    assert answer(model, job(model), asked, tmp_path / "out.jsonl", resume=True).skipped == 3


def test_a_clip_without_frames_is_not_retried(
    model: EchoingPixels, near: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = clips.Track(clips.beep(2.0, 1.0))
    sound = clips.write(tmp_path / "sound.mka", clips.Film(seconds=2.0, codec=None, tracks=(track,)))
    limit_frames(-1, monkeypatch)
    tally = answer(model, job(model), tasks(sound), tmp_path / "out.jsonl")
    assert dict(tally.failures) == {"OutOfMemoryError": 3} and near == ["sound.mka"]


def test_a_clips_seconds_count_in_its_first_row_even_if_that_fails(
    films: list[Path], model: EchoingPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fails, name in ((False, "a.jsonl"), (True, "b.jsonl")):
        if fails:
            select_fails(model, monkeypatch, 0, RuntimeError("a fault"))
        answer(model, job(model), tasks(films[0]), tmp_path / name)
        first, *others = (row["time_s"] for row in rows(tmp_path / name))
        assert first["decode"] > 0 and first["encode"] > 0
        assert all(row["decode"] == row["encode"] == 0 for row in others)
        assert all((row["prefill"] > 0) != fails for row in (first, *others))


def test_features_are_stored_after_answers_even_if_these_fail(
    films: list[Path], model: EchoingPixels, near: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = job(model, tmp_path / "cache")
    with monkeypatch.context() as patch:
        select_fails(model, patch, 0, RuntimeError("a fault"))
        tally = answer(model, cached, tasks(films[0]), tmp_path / "a.jsonl")
        assert dict(tally.failures) == {"InternalError": 3} and near == ["0.mp4"]
    tally = answer(model, cached, tasks(films[0]), tmp_path / "b.jsonl")
    assert (tally.answered, tally.cached, near) == (3, 3, ["0.mp4"])
    plain = tmp_path / "c.jsonl"
    answer(model, job(model), tasks(films[0]), plain)
    for row, fresh in zip(rows(tmp_path / "b.jsonl"), rows(plain), strict=True):
        assert row["cached"] and not fresh["cached"] and row["time_s"]["encode"] == 0
        assert (row["answer"], row["notes"], row["warnings"]) == (fresh["answer"], fresh["notes"], fresh["warnings"])
