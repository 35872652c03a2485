"""Everything about a batch that is the same for all clips, and the key of a row. Knows nothing about files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoints.loading import Weights, has_sieve, weights_of
from ..options import AskOptions, LoadOptions, MediaOptions, plain_keep, reuse_name
from .task import Task


@dataclass(frozen=True)
class Job:
    """Which model answers, how clips are read and tokens chosen. `cache`: the folder of features, None for none."""

    model: str
    load: LoadOptions
    read: MediaOptions
    ask: AskOptions
    weights: Weights
    cache: Path | None = None

    def key(self, mark: str, task: Task, question: str) -> str:
        """Of a row: everything its answer depends on, so that it is known again whatever its clip is called."""
        read, ask = replace(task, max_frames=None).options(self.read), self.ask
        what = {
            "clip": mark,
            "read": [read.fps, read.max_frames, read.start, read.end, read.audio, read.audio_track],
            "pixels": str(self.weights.resolution),
            "reuse": reuse_name(self.weights.reuse),
            "question": question,
            "model": [self.model, self.weights.model, self.load.quant, self.load.dtype],
            "sieve": [self.weights.sieve, None],  # None: earlier versions had a rotary split here
            "choice": [ask.reducer, plain_keep(ask.keep)],
            "answer": [ask.generate.max_new_tokens, ask.generate.temperature, ask.generate.seed],
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def make_job(model: str, load: LoadOptions, read: MediaOptions, ask: AskOptions, cache: Path | None = None) -> Job:
    """A job for a model by name, whose weights are told apart but not loaded. ModelError as from `load`."""
    weights, ask = weights_of(model, load), ask.resolved(has_sieve(model, load))
    return Job(model, load, read, ask, weights, cache)
