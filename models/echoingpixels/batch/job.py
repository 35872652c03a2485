"""The settings that all clips of a batch share, and the key of a row."""

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
        parts = {
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
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def make_job(model: str, load: LoadOptions, read: MediaOptions, ask: AskOptions, cache: Path | None = None) -> Job:
    """A job for a named model, whose weights are identified but not loaded. ModelError as of `load`."""
    weights, ask = weights_of(model, load), ask.resolved(has_sieve(model, load))
    return Job(model, load, read, ask, weights, cache)
