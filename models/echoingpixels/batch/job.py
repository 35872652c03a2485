"""The settings that all clips of a batch share, a clip with its questions, and the key of a row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.loading import Weights, has_sieve, weights_of
from ..options import AskOptions, LoadOptions, MediaOptions, reuse_name


@dataclass(frozen=True)
class Job:
    """The model and the options of a batch. `cache`: the folder of features, None for none."""

    model: str
    load: LoadOptions
    read: MediaOptions
    ask: AskOptions
    weights: Weights
    cache: Path | None = None

    def key(self, mark: str, task: Task, question: str) -> str:
        """The key of a row: a hash of everything that its answer depends on, but not of the clip's name."""
        read, ask = replace(task, max_frames=None).options(self.read), self.ask
        parts: dict[str, Any] = {
            "clip": mark,
            "read": [read.fps, read.max_frames, read.start, read.end, read.audio, read.audio_track],
            "pixels": str(self.weights.resolution),
            "reuse": reuse_name(self.weights.reuse),
            "question": question,
            "model": [self.model, self.weights.model, self.load.quant, self.load.dtype],
            "sieve": [self.weights.sieve, None],  # None: earlier versions had a rotary split here
            "choice": [ask.reducer, ask.keep],
            "answer": [ask.generate.max_new_tokens, ask.generate.temperature, ask.generate.seed],
        }
        if self.weights.encoder_keep is not None:  # keys of earlier versions are without it
            parts["encoder_keep"] = str(self.weights.encoder_keep)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def make_job(model: str, load: LoadOptions, read: MediaOptions, ask: AskOptions, cache: Path | None = None) -> Job:
    """A job for a named model, whose weights are identified but not loaded. ModelError as of `load`."""
    weights, ask = weights_of(model, load), ask.resolved(has_sieve(model, load))
    return Job(model, load, read, ask, weights, cache)


@dataclass(frozen=True)
class Wanted:
    """A question of a task. `id`: the user's own, or the clip's path or address."""

    id: str
    question: str


@dataclass(frozen=True)
class Task:
    """One clip and its questions. `media` is a path or an address; `start` and `end` in s.

    `max_frames`: the limit of a retry after memory ran out, else None; `retried`: the sentence that reports it.
    """

    media: str
    rows: tuple[Wanted, ...]
    start: float | None = None
    end: float | None = None
    max_frames: int | None = None
    retried: str | None = None

    def options(self, read: MediaOptions) -> MediaOptions:
        """How to read this clip."""
        start = read.start if self.start is None else self.start
        end = read.end if self.end is None else self.end
        return replace(read, start=start, end=end, max_frames=self.max_frames or read.max_frames)
