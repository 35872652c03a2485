"""Training on the user's clips: question files, features on disk, clips that cannot be read."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echoingpixels.backbones.base import Features
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.errors import DataError
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.positions import Span
from echoingpixels.train import clips as module
from echoingpixels.train import questions
from echoingpixels.train.clips import read_clips
from echoingpixels.train.examples import Example
from echoingpixels.train.questions import OwnAnswers
from echoingpixels.train.recipe import Data, Lora
from tests.support import clips
from tests.support.smalltrain import FULL, SIEVE, SIZES, recipe, train
from tools.tiny.build import build_backbone
from tools.tiny.recipe import TinyData


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, one broken file, and the questions about them; another file of questions about broken ones alone."""
    folder = tmp_path_factory.mktemp("clips")
    clips.write(folder / "a.mp4", clips.Film(seconds=2.0, tracks=(clips.Track(clips.beep(2.0, 1.0)),)))
    clips.write(folder / "b.mp4", clips.Film(seconds=3.0))
    (folder / "broken.mp4").write_bytes(b"no film")
    rows = [
        {"media": "a.mp4", "question": "What is heard?", "answer": "a beep", "kind": "sound"},
        {"media": "a.mp4", "question": "How often?", "answer": "once"},
        {"media": "broken.mp4", "question": "What is seen?", "answer": "nothing"},
        {"media": "broken.mp4", "question": "What is heard?", "answer": "nothing"},
        {"media": "gone.mp4", "question": "What is heard?", "answer": "nothing"},
        {"media": "b.mp4", "question": "What is seen?", "answer": "a number", "kind": "picture", "start": 1, "end": 2},
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "valid.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    (folder / "broken.jsonl").write_text("\n".join(map(json.dumps, rows[2:5])))
    return folder


@pytest.fixture(scope="module")
def backbone() -> QwenOmni:
    torch.manual_seed(0)
    return build_backbone(SIZES, "small")


def test_a_clip_that_cannot_be_read_is_reported_once_and_left_out(
    folder: Path, tmp_path: Path, backbone: QwenOmni, capsys: pytest.CaptureFixture[str]
) -> None:
    read = read_clips(backbone, Data(), folder / "train.jsonl", tmp_path)
    out = capsys.readouterr().out
    assert out.count("broken.mp4") == 1 and out.count("gone.mp4") == 1 and out.count("left out") == 2
    assert [len(example.questions) for example in read] == [2, 1]
    first, second = read
    assert first.features.video is not None and first.features.audio is not None
    assert first.features.video.dtype == torch.bfloat16
    assert len(first.features.video) + len(first.features.audio) == first.span.tokens
    assert second.features.audio is None and max(second.span.times) < 1.0  # the part from 1 s to 2 s
    assert len(read.draw(np.random.default_rng(0), 3)) == 3


def test_features_are_encoded_once_while_the_file_does_not_change(
    folder: Path, tmp_path: Path, backbone: QwenOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = module.read_clip
    monkeypatch.setattr(module, "read_clip", lambda path, *a, **k: read.append(Path(path).name) or plain(path, *a, **k))

    def again(data: Data) -> list[str]:
        read.clear()
        read_clips(backbone, data, folder / "valid.jsonl", tmp_path)
        return read

    assert again(Data()) == ["a.mp4"]
    assert again(Data()) == []
    assert again(Data(fps=1.0)) == ["a.mp4"]
    os.utime(folder / "a.mp4", (1, 1))
    assert again(Data()) == ["a.mp4"]
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(backbone, "reuse", 0.1)
        assert again(Data()) == ["a.mp4"]
        patch.setattr(backbone, "reuse", None)
        patch.setattr(backbone, "name", "other")
        assert again(Data()) == []
        weight = next(backbone.thinker.model.visual.parameters())
        weight.add_(0.1)
        assert again(Data()) == ["a.mp4"]
        weight.sub_(0.1)
    assert all(path.is_dir() or path.suffix == ".safetensors" for path in tmp_path.rglob("*"))


def test_an_own_answer_belongs_to_the_model_that_the_run_began_with(
    tmp_path: Path, backbone: QwenOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(questions, "_generate", lambda *given: asked.append(given[2]) or "a beep")
    one = Example(Span(), Features(None, None), ())
    for base in ("first", "first", "other"):
        OwnAnswers(backbone, tmp_path, 4, base).answer("clip", one, "What?")
    assert len(asked) == 2


def test_a_file_whose_clips_are_all_broken_is_refused(folder: Path, tmp_path: Path, backbone: QwenOmni) -> None:
    with pytest.raises(DataError, match="None of the 2 clips"):
        read_clips(backbone, Data(), folder / "broken.jsonl", tmp_path)


def test_ms_swift_rows_and_published_sets_can_be_trained_on(folder: Path, tmp_path: Path, backbone: QwenOmni) -> None:
    turns = [{"role": "user", "content": "<video>What is heard?"}, {"role": "assistant", "content": "a beep"}]
    (tmp_path / "swift.jsonl").write_text(json.dumps({"messages": turns, "videos": ["a.mp4"]}))
    choice = {"video_name": "b", "question_text": "What?", "multi_choice": ["a cat", "a number"], "answer": 1}
    (tmp_path / "avqa.json").write_text(json.dumps([choice]))
    data = Data(media=folder)
    (sound,) = read_clips(backbone, data, tmp_path / "swift.jsonl", tmp_path)
    (video,) = read_clips(backbone, data, tmp_path / "avqa.json", tmp_path)
    assert [(one.question, one.answer) for one in sound.questions] == [("What is heard?", "a beep")]
    assert video.questions[0].answer == "B" and "\nB. a number\n" in video.questions[0].question


def test_a_pretrained_model_learns_from_them_by_lora_and_through_a_sieve(
    folder: Path, tmp_path: Path, tiny: str
) -> None:
    data = TinyData(train=folder / "train.jsonl", valid=folder / "valid.jsonl", max_pixels=56 * 56)
    lora = Lora(rank=2)
    stages = (replace(FULL, steps=2, lora=lora), replace(SIEVE, steps=2, batch=2, lora=lora, layers=None))
    model = train(recipe(*stages, model=tiny, data=data), tmp_path)
    assert load(str(model)).sieve is not None
    with (tmp_path / "full.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {"clips", "all", "sound", "valid_loss"} <= row.keys() and row["clips"] == "2"
    assert float(row["valid_loss"]) > 0
