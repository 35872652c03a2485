"""Encoder features of SyncClips clips with their questions, in shards on disk.

One process fills the bank while another trains on the shards present. The name of a shard holds a mark of the encoders'
weights and of all options, so that a run never reads features of other weights or options.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from echoingpixels.backbones.base import Backbone, Features
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints.fingerprint import encoders_mark
from echoingpixels.errors import DataError
from echoingpixels.features.cache import FORMAT
from echoingpixels.features.encode import encode
from echoingpixels.inputs.positions import Span
from echoingpixels.media.clip import Clip, Source
from echoingpixels.options import reuse_name
from echoingpixels.report import Stopwatch
from echoingpixels.storage.folders import filling
from echoingpixels.synth.questions import Question, pick, questions
from echoingpixels.synth.timeline import Timeline
from echoingpixels.train.examples import Example, similar

from .encoders import MAX_SIDE, SAMPLED_FPS
from .sample import planned, sample
from .statements import statements

FURTHER = 1_000_000  # number of the first clip that is searched for rich ones
RARE = 10  # clips searched for each rich clip, about
ENDING = ".safetensors"
FILLING = "filling"  # a file that the filling process touches after each clip
TICK = 2  # s between checks for new shards
PATIENCE = 300  # s to wait for a sign of the filling process


def example(backbone: Backbone, seed: int, index: int, most: int) -> Example:
    """Make clip `index` of the set `seed`, encode it and draw at most `most` questions."""
    timeline, frames, times, audio = sample(seed, index, SAMPLED_FPS, MAX_SIDE)
    clip = Clip(frames, times, audio, timeline.duration, Source(f"{seed}/{index}", "video", "none", timeline.duration))
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
        encoded = encode(backbone, clip.pieces(), Stopwatch(backbone.device))
    rng = np.random.default_rng([seed, index, 11])
    return Example(encoded.media.span, encoded.features, tuple(pick(questions(timeline, rng), rng, most)), index=index)


@dataclass(frozen=True)
class ClipSet:
    """The first `clips` clips of a seed and the rich ones of `searched` more, with at most `questions` each.

    A file of a bank holds `shard` clips.
    """

    seed: int
    clips: int
    shard: int
    questions: int
    searched: int = 0

    def names(self, backbone: QwenOmni) -> dict[str, range]:
        """The names of the shards that this model's encoders make, and which clips they are of."""
        pixels, reuse = str(backbone.resolution), reuse_name(backbone.reuse)
        about = [FORMAT, encoders_mark(backbone), pixels, reuse, SAMPLED_FPS, MAX_SIDE, self.questions]
        mark = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        further, step = FURTHER + self.searched, RARE * self.shard
        ranges = [range(n, min(self.clips, n + self.shard)) for n in range(0, self.clips, self.shard)]
        ranges += [range(n, min(further, n + step)) for n in range(FURTHER, further, step)]
        return {f"{self.seed}-{one.start:06}-{one.stop:06}-{mark}{ENDING}": one for one in ranges}


def fill(backbone: QwenOmni, folder: Path, wanted: ClipSet, process: int = 0, processes: int = 1) -> None:
    """Write the missing shards, each process its part of them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = wanted.names(backbone)
    others = [path for path in folder.glob(f"{wanted.seed}-*{ENDING}") if path.name not in names]
    if others:
        print(f"not used: {len(others)} files in {folder}, made by other weights or options", flush=True)
    try:
        for name, clips in list(names.items())[process::processes]:
            if not (folder / name).exists():
                _fill(backbone, folder / name, wanted, clips)
    finally:
        (folder / FILLING).unlink(missing_ok=True)


def _fill(backbone: QwenOmni, path: Path, wanted: ClipSet, clips: range) -> None:
    """Write one shard."""
    began, made = time.monotonic(), []
    for i in clips:
        (path.parent / FILLING).touch()
        if i < FURTHER or is_rich(planned(wanted.seed, i)):
            made.append(example(backbone, wanted.seed, i, wanted.questions))
    tensors, about = {}, []
    for i, one in enumerate(made):
        for name, value in vars(one.features).items():
            if value is not None:
                tensors[f"{i}.{name}"] = value.to("cpu", torch.bfloat16).contiguous()
        about.append({"index": one.index, "span": vars(one.span), "questions": [vars(q) for q in one.questions]})
    with filling(path.parent) as folder:
        save_file(tensors, folder / path.name, {"clips": json.dumps(about)})
    print(f"bank {path.name} {len(made)} clips, {time.monotonic() - began:.0f} s", flush=True)


def is_rich(timeline: Timeline) -> bool:
    """Whether two or more questions combine picture and sound where there is more than one candidate."""
    several = {
        "object_at_sound": len(timeline.of("object")) > 1,
        "sound_with_object": len({event.what for event in timeline.of("sound")}) > 1,
    }
    asked = questions(timeline, np.random.default_rng(0))
    return sum(several.get(question.kind, False) for question in asked) > 1


class Reader:
    """The examples of one seed in a bank folder; new shards are read when examples are drawn.

    `names` are those of the shards to read (`ClipSet.names`); all of the seed by default.
    """

    def __init__(self, folder: Path, seed: int, names: Collection[str] | None = None) -> None:
        self.folder, self.seed, self.names = folder, seed, names
        self.read: set[Path] = set()
        self.examples: list[Example] = []
        self.statements: dict[int, tuple[Question, ...]] = {}

    def refresh(self) -> None:
        """Read the new shards."""
        for path in sorted(set(self.folder.glob(f"{self.seed}-*{ENDING}")) - self.read):
            self.read.add(path)
            if self.names is not None and path.name not in self.names:
                continue
            with safe_open(path, "pt") as file:
                names = set(file.keys())
                for i, about in enumerate(json.loads(file.metadata()["clips"])):
                    found = {
                        n: file.get_tensor(f"{i}.{n}") if f"{i}.{n}" in names else None for n in ("video", "audio")
                    }
                    span = Span(**{**about["span"], "times": tuple(about["span"]["times"])})
                    asked = tuple(Question(**{**q, "options": tuple(q["options"])}) for q in about["questions"])
                    self.examples.append(Example(span, Features(**found), asked, index=about["index"]))

    def draw(self, rng: np.random.Generator, n: int) -> list[Example]:
        """n random examples of similar length, new shards included; waits for the first while a process fills.

        DataError where no process has made a clip for PATIENCE seconds.
        """
        self.refresh()
        if not self.examples:
            self._wait()
        return [self._with_statements(one) for one in similar(self.examples, rng, n)]

    def _wait(self) -> None:
        print(f"waiting at most {PATIENCE} s for a process with --stage bank to fill {self.folder}", flush=True)
        sign, since = self._sign(), time.monotonic()
        while not self.examples:
            if self._sign() != sign:
                sign, since = self._sign(), time.monotonic()
            if time.monotonic() - since > PATIENCE:
                what = f"{self.folder} holds no features of these weights and options, and no process makes them."
                raise DataError(what, "Train with --stage bank and the same --out, before or beside this.")
            time.sleep(TICK)
            self.refresh()

    def _sign(self) -> float | None:
        """The time of the last clip of the filling process, by the file system's clock; None without a process."""
        with suppress(OSError):
            return (self.folder / FILLING).stat().st_mtime
        return None

    def _with_statements(self, one: Example) -> Example:
        """The clip with its statements, made at its first draw: planning 20,000 clips takes a minute."""
        if one.index not in self.statements:
            rng = np.random.default_rng([self.seed, one.index, 13])
            self.statements[one.index] = statements(planned(self.seed, one.index), rng)
        return replace(one, statements=self.statements[one.index])

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)
