"""Small batches for tests: a job for the random model, and clips that are decoded in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from echoingpixels.batch.job import Job, Task, Wanted
from echoingpixels.batch.journal import Journal
from echoingpixels.batch.run import run
from echoingpixels.batch.tally import Tally
from echoingpixels.checkpoints.loading import Weights
from echoingpixels.media import stream_clip
from echoingpixels.media.clip import Pieces
from echoingpixels.media.host import FrameSize
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions, MediaOptions

QUESTIONS = ("Who?", "Which object appears first?", "Is the bell heard?")
SHORT = GenerateOptions(max_new_tokens=4)


class Near:
    """Stands in for a Worker where it is not the process that matters: reads here, which starts at once."""

    def stream(self, path: str | Path, options: MediaOptions, *, frame_size: FrameSize | None = None) -> Pieces:
        return stream_clip(path, options, frame_size=frame_size)

    def close(self) -> None: ...


def job(model: EchoingPixels, cache: Path | None = None, reducer: str = "cs2", keep: float = 0.3) -> Job:
    """A job for a model that no folder holds."""
    on = model.backbone
    weights = Weights("model", "sieve", "encoders", on.resolution, None)
    options = AskOptions(reducer, keep, SHORT)
    return Job("random", LoadOptions(), MediaOptions(), options, weights, cache)


def tasks(*media: Path, questions: tuple[str, ...] = QUESTIONS) -> list[Task]:
    """Every question about every clip."""
    return [Task(str(one), tuple(Wanted(str(one), question) for question in questions)) for one in media]


def answer(model: EchoingPixels, chosen: Job, asked: list[Task], out: Path, **options: Any) -> Tally:
    """Run a batch into a journal; `resume` and `retry` are the journal's, the rest `run`'s."""
    ids = {wanted.id for task in asked for wanted in task.rows}
    known = {name: options.pop(name) for name in ("resume", "retry") if name in options}
    with Journal(out, ids, **known) as journal:
        return run(chosen, asked, journal, lambda: model, **options)


def rows(out: Path) -> list[dict[str, Any]]:
    """What a journal holds."""
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
