"""Questions in training: bad rows, missing answers, long examples, epochs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.datasets.questions import Row
from echoingpixels.errors import DataError, MediaError
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.inputs.prompt import prepare_prompt
from echoingpixels.train import clips as train_clips
from echoingpixels.train.clips import Clips, clip_tokens, cut, read_clips, text_tokens
from echoingpixels.train.draws import Draws
from echoingpixels.train.questions import ANSWERS, OwnAnswers, read_asked
from echoingpixels.train.recipe import Data, Stage
from tests.support import clips, tinymodel
from tests.support.smalltrain import SIZES
from tools.tiny.build import build_backbone
from tools.tiny.recipe import TinyRecipe, TinyStage

STAGE = Stage("s", "sieve", epochs=1, batch=2, accumulate=2)


@pytest.fixture(scope="module")
def backbone() -> QwenOmni:
    torch.manual_seed(0)
    return build_backbone(SIZES, "small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short clip and a long one."""
    folder = tmp_path_factory.mktemp("rows")
    clips.write(folder / "short.mp4", clips.Film(seconds=2.0, tracks=(clips.Track(clips.beep(2.0, 1.0)),)))
    clips.write(folder / "long.mp4", clips.Film(seconds=8.0, tracks=(clips.Track(clips.beep(8.0, 1.0)),)))
    return folder


def row(clip: str, question: str = "What?", **more: str) -> dict[str, str]:
    return {"media": f"{clip}.mp4", "question": question, **more}


def written(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_bad_rows_get_a_line_each_and_do_not_end_the_reading(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = row("short", answer="a beep")
    own = written(tmp_path / "own.jsonl", "no json", good, {"media": "short.mp4"}, "[1]", {**good, "start": -1}, good)
    turns = {"messages": [{"role": "user", "content": "<video>What?"}], "videos": ["short.mp4"]}
    twice = {**turns, "messages": turns["messages"] * 2}
    swift = written(tmp_path / "swift.jsonl", twice, turns, "{", {**turns, "videos": []})
    for path, rows, lines in ((own, 2, (1, 3, 4, 5)), (swift, 1, (1, 3, 4))):
        found, bad = read_asked(path, folder)
        reported = capsys.readouterr().out.splitlines()
        assert (len(found), bad) == (rows, len(lines)) and len(reported) == len(lines)
        for number, line in zip(lines, reported, strict=True):
            assert line.startswith("left out: ") and f"line {number}" in line


def test_a_file_of_bad_rows_alone_is_refused_with_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 rows cannot be read: .*line 1 has no question"):
        read_asked(written(tmp_path / "rows.jsonl", {"media": "a.mp4"}, "no json"), tmp_path)


def test_plain_questions_are_asked_of_every_clip(folder: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "questions.txt", "What is heard?", "", "  What is seen? ")
    rows, bad = read_asked(path, folder)
    assert bad == 0 and all(one.answer == "" for one in rows)
    assert {(one.media.name, one.question) for one in rows} == {
        (clip, question) for clip in ("short.mp4", "long.mp4") for question in ("What is heard?", "What is seen?")
    }
    with pytest.raises(DataError, match="is not a folder"):
        read_asked(path, tmp_path / "none")


def test_own_answers_are_generated_once_and_survive_a_cut_file(
    folder: Path, tmp_path: Path, backbone: QwenOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "rows.jsonl", row("short"), row("short", "How?", answer="loud"))
    first = read_clips(backbone, Data(media=folder, answer_tokens=3), path, tmp_path)
    answers = [question.answer for question in first.kept[0].questions]
    assert answers[1] == "loud"
    with (tmp_path / ANSWERS).open("a") as file:
        file.write('["clip", "quest')
    monkeypatch.setattr("echoingpixels.train.questions._generate", lambda *_: pytest.fail("generated twice"))
    again = read_clips(backbone, Data(media=folder, answer_tokens=3), path, tmp_path)
    assert [question.answer for question in again.kept[0].questions] == answers
    assert len(OwnAnswers(backbone, tmp_path, 3).known) == 1


def test_lengths_are_those_of_the_prompt(backbone: QwenOmni) -> None:
    media = prepare_media(tinymodel.clip(3.0), backbone.resolution)
    asked = Row("1", Path("x"), "What is heard?", "a loud beep")
    prompt = prepare_prompt(media, asked.question, backbone.tokenizer, backbone.layout, answer=asked.answer)
    tokens = clip_tokens(backbone, media.span) + text_tokens(backbone, asked, 10)
    assert tokens == prompt.input_ids.shape[1]
    blank = text_tokens(backbone, replace(asked, answer=""), 10)
    assert blank > text_tokens(backbone, replace(asked, answer="a"), 10)


def test_a_cut_clip_is_the_longest_beginning_that_fits(backbone: QwenOmni) -> None:
    clip = tinymodel.clip(9.0)
    lengths = {}
    for seconds in range(1, 10):
        part = tinymodel.clip(9.0)
        part = replace(part, frames=part.frames[: 2 * seconds], times=part.times[: 2 * seconds], duration=seconds)
        assert part.audio is not None
        part = replace(part, audio=part.audio[: seconds * 16_000])
        lengths[seconds] = clip_tokens(backbone, prepare_media(part, backbone.resolution).span)
    for seconds, tokens in lengths.items():
        assert cut(backbone, clip, tokens).duration == pytest.approx(seconds)
        if seconds > 1:
            assert cut(backbone, clip, tokens - 1).duration < seconds
    with pytest.raises(MediaError, match="first second"):
        cut(backbone, clip, lengths[1] - 1)


@pytest.mark.parametrize("too_long", ["skip", "cut"])
def test_long_examples_are_skipped_or_cut_and_counted(
    too_long: str, folder: Path, tmp_path: Path, backbone: QwenOmni, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "rows.jsonl", row("short", answer="x"), row("long", answer="x"))
    whole = read_clips(backbone, Data(media=folder), path, tmp_path)
    assert len(whole) == 2
    lengths = [clip_tokens(backbone, one.span) for one in whole.kept]
    most = (min(lengths) + max(lengths)) // 2
    capsys.readouterr()
    data = Data(media=folder, max_length=most, too_long=too_long)  # type: ignore[arg-type]
    found = read_clips(backbone, data, path, tmp_path)
    out = capsys.readouterr().out
    if too_long == "skip":
        assert len(found) == 1 and "1 questions longer than max_length" in out
    else:
        assert len(found) == 2 and "0 questions longer" in out
        assert max(clip_tokens(backbone, one.span) for one in found.kept) <= most
    with pytest.raises(DataError, match="can be used") as error:
        read_clips(backbone, replace(data, max_length=30, too_long="skip"), path, tmp_path)
    assert "raise it" in error.value.hint


def test_without_a_bank_the_encoders_run_when_a_clip_is_drawn(
    folder: Path, tmp_path: Path, backbone: QwenOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "rows.jsonl", row("short", answer="x"))
    (kept,) = read_clips(backbone, Data(media=folder), path, tmp_path)
    made: list[object] = []
    plain = train_clips.encode
    monkeypatch.setattr(train_clips, "encode", lambda *given: made.append(given) or plain(*given))
    source = read_clips(backbone, Data(media=folder, bank=False), path, tmp_path)
    assert not made
    (first,), (second,) = source, source
    assert len(made) == 2 and first.span == kept.span
    for name in ("video", "audio"):
        assert torch.equal(getattr(first.features, name), getattr(kept.features, name))
        assert torch.equal(getattr(second.features, name), getattr(kept.features, name))


def test_an_epoch_asks_every_question_once_and_two_processes_share_it(
    folder: Path, tmp_path: Path, backbone: QwenOmni
) -> None:
    rows = [row(clip, f"What {n}?", answer="x") for clip in ("short", "long") for n in range(4)]
    source = read_clips(backbone, Data(media=folder), written(tmp_path / "rows.jsonl", *rows), tmp_path)
    assert isinstance(source, Clips) and len(source.pairs()) == 8
    for processes, steps in ((1, 2), (2, 1)):
        stage = replace(STAGE, steps=STAGE.steps_of(8, processes))
        draws = Draws(source, stage, 3, 1, processes)
        assert (stage.steps, len(draws)) == (steps, 4)
        asked = [(example.span, question.question) for i in range(4) for example, (question,) in draws[i].asked]
        assert len(set(asked)) == len(asked) == 8
    later = Draws(source, replace(STAGE, steps=4), 3, 1)
    orders = [[q.question for i in part for _, (q,) in later[i].asked] for part in (range(4), range(4, 8))]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_epochs_need_a_question_file() -> None:
    with pytest.raises(DataError, match="SyncClips have no epochs"):
        TinyRecipe(stage=(TinyStage("s", "sieve", epochs=1),))
    with pytest.raises(DataError, match="epochs = 1"):
        Stage("s", "answers", epochs=1)
    with pytest.raises(DataError, match="steps = 0"):
        Stage("s", "sieve")
