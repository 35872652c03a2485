"""The user's clips as training examples: lengths in tokens, and encoder features kept in one file a clip."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..backbones.base import Backbone, Features
from ..backbones.qwen_omni import QwenOmni
from ..checkpoints.fingerprint import encoders_mark
from ..datasets.questions import Row
from ..errors import DataError, EpError, MediaError
from ..features.cache import FORMAT
from ..features.encode import encode
from ..inputs.positions import Span, place
from ..inputs.prepare import extent_of, span_of
from ..inputs.prompt import chat_ids
from ..media import read_clip
from ..media.clip import SAMPLE_RATE, Clip
from ..options import MediaOptions, reuse_name
from ..report import Stopwatch
from ..storage.folders import filling
from ..synth.questions import Question
from .examples import Example, similar
from .questions import OwnAnswers, read_asked
from .recipe import Data

Part = tuple[Path, float | None, float | None]  # a file, its start and end in s


def clip_tokens(backbone: Backbone, span: Span) -> int:
    """Tokens of a prompt before the question: the start of the chat, and the clip with its markers."""
    before, _, _ = chat_ids(backbone.tokenizer, "", "")
    return place([before, span], backbone.layout).ids.numel()


def text_tokens(backbone: Backbone, row: Row, answer_tokens: int) -> int:
    """Tokens of a question and its answer, with `answer_tokens` for an answer that is not known yet."""
    _, after, answer = chat_ids(backbone.tokenizer, row.question, row.answer)
    return len(after) + (len(answer) if row.answer else answer_tokens + 1)


def cut(backbone: Backbone, clip: Clip, room: int) -> Clip:
    """The longest beginning of a clip, in whole seconds, whose prompt has at most `room` tokens before the question.

    MediaError where the first second is longer.
    """
    seconds, part = int(-(-clip.duration // 1)), clip
    while clip_tokens(backbone, span_of(extent_of(part.pieces()), backbone.resolution)) > room:
        seconds -= 1
        if seconds < 1:
            what = f"The first second of {clip.source.path} is longer than max_length allows."
            raise MediaError(what, "Raise max_length, or lower max_pixels.")
        part = replace(
            clip,
            frames=clip.frames[clip.times < seconds],
            times=clip.times[clip.times < seconds],
            audio=None if clip.audio is None else clip.audio[: seconds * SAMPLE_RATE],
            duration=float(seconds),
        )
    return part


@dataclass(frozen=True)
class Kept:
    """A clip with its questions. Its features are on disk, or recomputed each time by `encode`."""

    span: Span
    path: Path
    questions: tuple[Question, ...]
    encode: Callable[[], Features] | None = None

    def read(self) -> Example:
        """The clip with its features."""
        if self.encode is not None:
            return Example(self.span, self.encode(), self.questions)
        with safe_open(self.path, "pt") as file:
            names = set(file.keys())
            found = {name: file.get_tensor(name) if name in names else None for name in ("video", "audio")}
        return Example(self.span, Features(**found), self.questions)


class Clips:
    """The clips of a question file. Features are read when a clip is drawn, so memory holds one batch."""

    def __init__(self, kept: Sequence[Kept]) -> None:
        self.kept = kept

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Example]:
        return (one.read() for one in self.kept)

    def draw(self, rng: np.random.Generator, n: int) -> list[Example]:
        """n random clips of similar length."""
        return [one.read() for one in similar(self.kept, rng, n)]

    def pairs(self) -> list[tuple[int, int]]:
        """Every question, as the number of its clip and its number in the clip."""
        return [(clip, q) for clip, one in enumerate(self.kept) for q in range(len(one.questions))]

    def ask(self, clip: int, question: int) -> tuple[Example, tuple[Question, ...]]:
        """A clip with one of its questions."""
        one = self.kept[clip].read()
        return one, (one.questions[question],)


def read_clips(backbone: QwenOmni, data: Data, questions: Path, folder: Path, base: str = "") -> Clips:
    """Read a question file, and encode those of its clips that `folder` does not hold yet.

    Rows and clips that cannot be read are reported and left out; clips that are too long are counted or cut; DataError
    where nothing is left. A question without an answer gets the model's own, kept under `base`, a mark of the model
    that the run began with.
    """
    rows, bad = read_asked(questions, data.media)
    asked: dict[Part, list[Row]] = {}
    for row in rows:
        asked.setdefault(row.clip, []).append(row)
    kept, unread, long = [], 0, 0
    own = OwnAnswers(backbone, folder, data.answer_tokens, base)
    encoders = encoders_mark(backbone) if data.bank else "span"
    for clip, about in asked.items():
        texts = [text_tokens(backbone, row, data.answer_tokens) for row in about]
        try:
            one = _features(backbone, clip, data, max(texts), folder / encoders)
        except EpError as error:
            print(f"left out: {error.message}", flush=True)
            unread += 1
            continue
        room = (data.max_length or sys.maxsize) - clip_tokens(backbone, one.span)
        fits = [row for row, text in zip(about, texts, strict=True) if text <= room]
        long += len(about) - len(fits)
        if fits:
            kept.append(_with_answers(one, fits, own))
    if not kept:
        what = f"None of the {len(asked)} clips in {questions} can be {'read' if not long else 'used'}."
        hint = "Correct the paths in it." if not long else f"{long} questions are longer than max_length: raise it."
        raise DataError(what, hint)
    print(f"{questions.name}: {sum(len(one.questions) for one in kept)} questions about {len(kept)} clips; not used: "
          f"{bad} rows, {unread} clips, {long} questions longer than max_length", flush=True)  # fmt: skip
    return Clips(kept)


def _with_answers(clip: Kept, rows: list[Row], own: OwnAnswers) -> Kept:
    """The clip with its questions, each with an answer."""
    whole = None if all(row.answer for row in rows) else clip.read()
    questions = []
    for row in rows:
        answer = row.answer or own.answer(clip.path.stem, whole, row.question) if whole else row.answer
        questions.append(Question(row.kind, row.question, answer, row.options))
    return replace(clip, questions=tuple(questions))


def _features(backbone: QwenOmni, clip: Part, data: Data, text: int, folder: Path) -> Kept:
    """A clip with its features in a file, encoded if the file is missing; a changed clip has another file.

    `folder` holds features of these encoders. `text` is the largest number of tokens after the clip, whose end is cut
    off to leave room for them.
    """
    source, start, end = clip
    room = None if data.max_length is None or data.too_long == "skip" else data.max_length - text
    try:
        file = source.stat()
    except OSError as error:
        what = f"{source} cannot be read: {(error.strerror or str(error)).lower()}."
        raise MediaError(what, "Correct its path in the question file.") from error
    about = [str(source.resolve()), file.st_size, file.st_mtime_ns, start, end]
    about += [FORMAT, reuse_name(backbone.reuse), str(backbone.resolution)]
    about += [data.fps, data.max_frames, data.audio, room]
    path = folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}.safetensors"
    span, recompute = _span(path), None if data.bank else partial(_encode, backbone, clip, data, room)
    if span is None:
        read = _read(backbone, clip, data, room)
        span = span_of(extent_of(read.pieces()), backbone.resolution)
        features = _encoded(backbone, read) if data.bank else Features(None, None)
        tensors = {name: value for name, value in vars(features).items() if value is not None}
        with filling(folder) as part:
            save_file(tensors, part / path.name, {"span": json.dumps(asdict(span))})
    return Kept(span, path, (), recompute)


def _read(backbone: QwenOmni, clip: Part, data: Data, room: int | None) -> Clip:
    """The clip, its end cut off where it is longer than `room`."""
    source, start, end = clip
    media = MediaOptions(fps=data.fps, max_frames=data.max_frames, audio=data.audio)
    read = read_clip(source, media, start=start, end=end, frame_size=backbone.resolution.size)
    return read if room is None else cut(backbone, read, room)


def _encoded(backbone: QwenOmni, clip: Clip) -> Features:
    """The encoders' features in bfloat16."""
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
        made = encode(backbone, clip.pieces(), Stopwatch(backbone.device)).features
    half = {name: None if x is None else x.to("cpu", torch.bfloat16).contiguous() for name, x in vars(made).items()}
    return Features(**half)


def _encode(backbone: QwenOmni, clip: Part, data: Data, room: int | None) -> Features:
    return _encoded(backbone, _read(backbone, clip, data, room))


def _span(path: Path) -> Span | None:
    """The span stored in a file of features, or None without such a file."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["span"])
    except (OSError, SafetensorError):
        return None
    return Span(**{**about, "times": tuple(about["times"])})
