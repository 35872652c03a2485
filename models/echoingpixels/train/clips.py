"""One's own clips and the questions about them, with the towers' features of each kept in a file of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..backbones.base import Features
from ..backbones.qwen_omni import QwenOmni
from ..errors import DataError, EpError, MediaError
from ..frames import fit
from ..inputs import prepare_media
from ..media import read_clip
from ..options import MediaOptions
from ..positions import Span
from ..questions import Row
from ..sets.reading import read_questions
from ..synth.questions import Question
from .bank import Example, alike
from .recipe import Data


@dataclass(frozen=True)
class Kept:
    """A clip whose features are on disk, and what is asked about it."""

    span: Span
    path: Path
    questions: tuple[Question, ...]

    def read(self) -> Example:
        """With its features."""
        with safe_open(self.path, "pt") as file:
            there = set(file.keys())
            found = {name: file.get_tensor(name) if name in there else None for name in ("video", "audio")}
        return Example(self.span, Features(**found), self.questions)


class Clips:
    """The clips of a question file; features are read when a clip is drawn, so memory holds one batch."""

    def __init__(self, kept: Sequence[Kept]) -> None:
        self.kept = kept

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Example]:
        return (one.read() for one in self.kept)

    def draw(self, rng: np.random.Generator, n: int) -> list[Example]:
        """n clips at random of like length."""
        return [one.read() for one in alike(self.kept, rng, n)]


def read_clips(backbone: QwenOmni, data: Data, questions: Path, folder: Path) -> Clips:
    """Read a question file, and run the towers over those of its clips that `folder` does not hold yet.

    A clip that cannot be read is named and left out; DataError where that leaves none.
    """
    media = MediaOptions(fps=data.fps, max_frames=data.max_frames, audio=data.audio)
    asked: dict[tuple[Path, float | None, float | None], list[Row]] = {}
    for row in read_questions(questions, media=data.media):
        asked.setdefault(row.clip, []).append(row)
    kept = []
    for clip, rows in asked.items():
        try:
            span, path = _features(backbone, clip, media, folder)
        except EpError as error:
            print(f"left out: {error.message}", flush=True)
            continue
        said = tuple(Question(row.kind, row.question, row.answer, row.options) for row in rows)
        kept.append(Kept(span, path, said))
    if not kept:
        raise DataError(f"None of the {len(asked)} clips in {questions} can be read.", "Mend the paths in it.")
    return Clips(kept)


@torch.no_grad()
def _features(
    backbone: QwenOmni, clip: tuple[Path, float | None, float | None], media: MediaOptions, folder: Path
) -> tuple[Span, Path]:
    """A clip's span and the file with its features, made if it is not there; a changed clip has another file."""
    source, start, end = clip
    try:
        file = source.stat()
    except OSError as error:
        what = f"{source} cannot be read: {(error.strerror or str(error)).lower()}."
        raise MediaError(what, "Mend its path in the question file.") from error
    pixels = (backbone.min_pixels, backbone.max_pixels)
    about = [str(source.resolve()), file.st_size, file.st_mtime_ns, start, end, backbone.name, *pixels]
    about += [media.fps, media.max_frames, media.audio]
    path = folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}.safetensors"
    span = _span(path)
    if span is not None:
        return span, path
    read = read_clip(source, media, start=start, end=end, frame_size=lambda h, w: fit(h, w, *pixels))
    prepared = prepare_media(read, *pixels)
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
        features = backbone.encode(prepared)
    tensors = {
        name: value.to("cpu", torch.bfloat16).contiguous()
        for name, value in vars(features).items()
        if value is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path.with_suffix(".tmp"), {"span": json.dumps(asdict(prepared.span))})
    path.with_suffix(".tmp").replace(path)
    return prepared.span, path


def _span(path: Path) -> Span | None:
    """What a file of features says of its clip, or None where there is no such file."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["span"])
    except (OSError, SafetensorError):
        return None
    return Span(**{**about, "times": tuple(about["times"])})
