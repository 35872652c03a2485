"""The frozen towers' features of many SyncClips clips with their questions, in shards on disk.

One process fills the bank while another trains on what is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..backbones.base import Backbone, Features
from ..clip import Clip, Source
from ..inputs import prepare_media
from ..positions import Span
from ..synth.plan import plan
from ..synth.questions import Question, pick, questions
from ..synth.sample import sample
from ..synth.timeline import Timeline
from .statements import statements
from .towers import MAX_SIDE, SAMPLED_FPS

FURTHER = 1_000_000  # the clips from here on are searched for rich ones
RARE = 10  # clips searched for each that is rich, about
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
    media = prepare_media(clip, backbone.resolution)
    with torch.no_grad(), torch.autocast(backbone.device.type, dtype=torch.bfloat16):
        features = backbone.encode(media)
    rng = np.random.default_rng([seed, index, 11])
    return Example(media.span, features, tuple(pick(questions(timeline, rng), rng, most)), index=index)


def fill(backbone: Backbone, folder: Path, seed: int, clips: int, shard: int, most: int, searched: int = 0) -> None:
    """Write the shards that are not there yet: of the first `clips` clips, and of the rich ones of `searched` more."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, clips, shard):
        _fill(backbone, folder, seed, range(first, min(clips, first + shard)), most)
    for first in range(FURTHER, FURTHER + searched, RARE * shard):
        _fill(backbone, folder, seed, range(first, min(FURTHER + searched, first + RARE * shard)), most)


def _fill(backbone: Backbone, folder: Path, seed: int, clips: range, most: int) -> None:
    """One shard."""
    path = folder / f"{seed}-{clips.start:06}.safetensors"
    if path.exists():
        return
    began = time.monotonic()
    chosen = [i for i in clips if i < FURTHER or is_rich(plan(seed, i))]
    made = [example(backbone, seed, i, most) for i in chosen]
    tensors, about = {}, []
    for i, one in enumerate(made):
        for name, value in vars(one.features).items():
            if value is not None:
                tensors[f"{i}.{name}"] = value.to("cpu", torch.bfloat16).contiguous()
        about.append({"index": one.index, "span": vars(one.span), "questions": [vars(q) for q in one.questions]})
    save_file(tensors, path.with_suffix(".tmp"), {"clips": json.dumps(about)})
    path.with_suffix(".tmp").replace(path)
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
    """All examples of a bank folder of one seed, picking up new shards as they come."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.read: set[Path] = set()
        self.examples: list[Example] = []
        self.told: dict[int, tuple[Question, ...]] = {}

    def refresh(self) -> None:
        """Read the shards that are new."""
        for path in sorted(set(self.folder.glob(f"{self.seed}-*.safetensors")) - self.read):
            self.read.add(path)
            first = int(path.stem.split("-")[1])
            with safe_open(path, "pt") as file:
                names = set(file.keys())
                for i, about in enumerate(json.loads(file.metadata()["clips"])):
                    found = {
                        n: file.get_tensor(f"{i}.{n}") if f"{i}.{n}" in names else None for n in ("video", "audio")
                    }
                    span = Span(**{**about["span"], "times": tuple(about["span"]["times"])})
                    asked = tuple(Question(**{**q, "options": tuple(q["options"])}) for q in about["questions"])
                    index = about.get("index", first + i)  # older banks leave none out and name none
                    self.examples.append(Example(span, Features(**found), asked, index=index))

    def draw(self, rng: np.random.Generator, n: int) -> list[Example]:
        """n examples at random of like length, new shards included; waits for the first."""
        self.refresh()
        if not self.examples:
            print(f"waiting for clips in {self.folder}", flush=True)
        while not self.examples:
            time.sleep(2)
            self.refresh()
        return [self._told(one) for one in alike(self.examples, rng, n)]

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
