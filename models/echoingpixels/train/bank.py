"""The frozen encoders' features of many SyncClips clips with their questions, in shards on disk.

One process fills the bank while another trains on what is there. A shard's name has a mark of the encoders' weights and
of all options that it depends on, so that a run never reads what other weights or options made.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..backbones.base import Backbone, Features
from ..backbones.qwen_omni import QwenOmni
from ..checkpoints.fingerprint import encoders_mark
from ..errors import DataError
from ..features.cache import FORMAT
from ..features.encode import encode
from ..inputs.positions import Span
from ..media.clip import Clip, Source
from ..options import reuse_name
from ..report import Stopwatch
from ..storage.folders import filling
from ..synth.plan import plan
from ..synth.questions import Question, pick, questions
from ..synth.sample import sample
from ..synth.timeline import Timeline
from .statements import statements
from .towers import MAX_SIDE, SAMPLED_FPS

FURTHER = 1_000_000  # the clips from here on are searched for rich ones
RARE = 10  # clips searched for each that is rich, about
ENDING = ".safetensors"
FILLING = "filling"  # a file in a bank's folder that the process that fills it changes after each clip
TICK = 2  # s between checks for new shards
PATIENCE = 300  # s to wait for a sign of that process
BUCKET = 4  # batches drawn, sorted by length, to take one from


class Spanned(Protocol):
    """What has a length in tokens."""

    @property
    def span(self) -> Span:
        """The tokens a clip becomes."""


S = TypeVar("S", bound=Spanned)


@dataclass(frozen=True)
class Example:
    """One clip as the decoder meets it, with what can be asked about it."""

    span: Span
    features: Features
    questions: tuple[Question, ...]
    statements: tuple[Question, ...] = ()
    index: int = -1  # of the clip in its set


class Supply(Protocol):
    """Clips with questions, in any number."""

    def __len__(self) -> int:
        """How many there are by now."""

    def __iter__(self) -> Iterator[Example]:
        """All of them, in order."""

    def draw(self, rng: np.random.Generator, n: int) -> list[Example]:
        """n of them at random, of like length."""


def alike(clips: Sequence[S], rng: np.random.Generator, n: int) -> list[S]:
    """n clips at random of like length, so that little is padded."""
    drawn = [clips[int(i)] for i in rng.integers(len(clips), size=BUCKET * n)]
    drawn.sort(key=lambda one: one.span.tokens)
    first = int(rng.integers((BUCKET - 1) * n + 1))
    return drawn[first : first + n]


def example(backbone: Backbone, seed: int, index: int, most: int) -> Example:
    """Make clip `index` of the set `seed`, run the towers over it and draw at most `most` questions."""
    timeline, frames, times, audio = sample(seed, index, SAMPLED_FPS, MAX_SIDE)
    clip = Clip(frames, times, audio, timeline.duration, Source(f"{seed}/{index}", "video", "none", timeline.duration))
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
        encoded = encode(backbone, clip.pieces(), Stopwatch(backbone.device))
    rng = np.random.default_rng([seed, index, 11])
    return Example(encoded.media.span, encoded.features, tuple(pick(questions(timeline, rng), rng, most)), index=index)


@dataclass(frozen=True)
class ClipSet:
    """The first `clips` clips of a seed, and the rich ones of `searched` more, with at most `questions` each.

    A file of a bank holds `shard` of them.
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


def fill(backbone: QwenOmni, folder: Path, wanted: ClipSet) -> None:
    """Write the shards that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    names = wanted.names(backbone)
    others = [path for path in folder.glob(f"{wanted.seed}-*{ENDING}") if path.name not in names]
    if others:
        print(f"not used: {len(others)} files in {folder}, made by other weights or options", flush=True)
    try:
        for name, clips in names.items():
            if not (folder / name).exists():
                _fill(backbone, folder / name, wanted, clips)
    finally:
        (folder / FILLING).unlink(missing_ok=True)


def _fill(backbone: QwenOmni, path: Path, wanted: ClipSet, clips: range) -> None:
    """One shard."""
    began, made = time.monotonic(), []
    for i in clips:
        (path.parent / FILLING).touch()
        if i < FURTHER or is_rich(plan(wanted.seed, i)):
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
    """Whether two or more questions join sight and sound where there is more than one thing to choose from."""
    several = {
        "object_at_sound": len(timeline.of("object")) > 1,
        "sound_with_object": len({event.what for event in timeline.of("sound")}) > 1,
    }
    asked = questions(timeline, np.random.default_rng(0))
    return sum(several.get(question.kind, False) for question in asked) > 1


class Reader:
    """The examples of a bank folder of one seed, picking up new shards as they come.

    `names`: of the shards to read (`ClipSet.names`); all of the seed if left out.
    """

    def __init__(self, folder: Path, seed: int, names: Collection[str] | None = None) -> None:
        self.folder, self.seed, self.names = folder, seed, names
        self.read: set[Path] = set()
        self.examples: list[Example] = []
        self.told: dict[int, tuple[Question, ...]] = {}

    def refresh(self) -> None:
        """Read the shards that are new."""
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
        """n examples at random of like length, new shards included; waits for the first as long as a process fills.

        DataError where no process has made a clip for PATIENCE seconds.
        """
        self.refresh()
        if not self.examples:
            self._wait()
        return [self._told(one) for one in alike(self.examples, rng, n)]

    def _wait(self) -> None:
        print(f"waiting at most {PATIENCE} s for a process with --stage bank to fill {self.folder}", flush=True)
        sign, since = self._sign(), time.monotonic()
        while not self.examples:
            if self._sign() != sign:
                sign, since = self._sign(), time.monotonic()
            if time.monotonic() - since > PATIENCE:
                what = f"{self.folder} holds no features of these weights and options, and no process makes them."
                raise DataError(what, "Run `ep train` with --stage bank and the same --out, before or beside this.")
            time.sleep(TICK)
            self.refresh()

    def _sign(self) -> float | None:
        """When the process that fills the bank made its last clip, by the file system's clock; None without one."""
        with suppress(OSError):
            return (self.folder / FILLING).stat().st_mtime
        return None

    def _told(self, one: Example) -> Example:
        """The clip with its statements, which are made when it is first drawn: planning 20,000 clips takes a minute."""
        if one.index not in self.told:
            rng = np.random.default_rng([self.seed, one.index, 13])
            self.told[one.index] = statements(plan(self.seed, one.index), rng)
        return replace(one, statements=self.told[one.index])

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)
