"""Makes a folder of SyncClips: media files and `questions.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import OptionError
from .encode import encode, read_signature, signature
from .plan import plan
from .questions import pick, questions
from .timeline import REGIMES, Timeline

Progress = Callable[[int, int], None]  # finished clips, all clips


def generate(
    out_dir: str | Path,
    clips: int,
    seed: int,
    questions_per_clip: int = 3,
    on_progress: Progress | None = None,
    force: bool = False,
    regimes: Sequence[str] = REGIMES,
) -> Path:
    """Write `clips` clips and their questions under `out_dir`; returns the path of questions.jsonl.

    The same seed and regimes give the same clips and questions; each regime has an equal share of the clips. An
    interrupted run continues: complete files of the same seed are kept. A clip may have fewer than
    `questions_per_clip` questions.
    Raises OptionError for invalid arguments, and, unless `force`, for a folder with the clips of another seed or with
    questions that are not the first of these.
    """
    folder = Path(out_dir)
    _check(folder, clips, seed, questions_per_clip, regimes)
    target = folder / "questions.jsonl"
    planned = [plan(seed, index, regimes) for index in range(clips)]
    media = [f"clips/{index:06d}.{timeline.container}" for index, timeline in enumerate(planned, 1)]
    rows = (_rows(*one, questions_per_clip) for one in zip(planned, media, strict=True))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for part in rows for row in part)
    if not force and target.exists() and not text.encode().startswith(target.read_bytes()):
        what = f"{target} exists and holds other questions."
        raise OptionError(what, "Choose another folder or the same options, or overwrite it with --force.")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for index, timeline in enumerate(planned):
        _make(timeline, folder / media[index], force)
        if on_progress is not None:
            on_progress(index + 1, clips)
    part = target.with_name(target.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    return part.replace(target)


def _check(folder: Path, clips: int, seed: int, questions_per_clip: int, regimes: Sequence[str]) -> None:
    if clips < 1:
        raise OptionError(f"The number of clips is {clips}.", "Give at least 1.")
    if questions_per_clip < 1:
        raise OptionError(f"The number of questions a clip is {questions_per_clip}.", "Give at least 1.")
    if seed < 0:
        raise OptionError(f"The seed is {seed}.", "Give a whole number from 0 up.")
    for regime in regimes:
        if regime not in REGIMES:
            raise OptionError(f"Unknown regime {regime!r}.", f"Known regimes: {', '.join(REGIMES)}.")
    if not regimes or len(set(regimes)) < len(regimes):
        raise OptionError(f"The regimes are {', '.join(regimes) or 'none'}.", "Name each wanted regime once.")
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file, not a folder.", "Give a new or empty folder.")


def _make(timeline: Timeline, path: Path, force: bool) -> None:
    """Encode the clip unless the complete file exists; an incomplete file never has the final name."""
    if path.exists():
        found = read_signature(path)
        if found == signature(timeline):
            return
        if not force:
            raise OptionError(
                f"{path} exists and is another clip ({found!r}, not {signature(timeline)!r}).",
                "Choose another folder or the same seed, or overwrite it with --force.",
            )
    part = path.with_name(path.name + ".part")
    try:
        encode(timeline, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _rows(timeline: Timeline, media: str, n: int) -> Iterator[dict[str, object]]:
    """The rows of one clip, with the keys of docs/syncclips.md."""
    rng = np.random.default_rng([timeline.seed, timeline.index, 2])
    events = [
        {"what": event.what, "start": event.start, "end": event.end, "corner": event.corner}
        for event in timeline.events
    ]
    for i, question in enumerate(pick(questions(timeline, rng), rng, n)):
        yield {
            "id": f"{timeline.index + 1:06d}-{i + 1}",
            "media": media,
            "question": question.question,
            "answer": question.answer,
            "kind": question.kind,
            "regime": timeline.regime,
            "options": list(question.options),
            "events": events,
        }
