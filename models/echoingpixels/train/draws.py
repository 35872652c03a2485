"""What each step learns from: clips and questions by seed, step and stage, so that a resumed run draws the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..synth.questions import Question, pick
from .bank import Example, Supply
from .recipe import Stage, Target, Task


@dataclass(frozen=True)
class Draw:
    """Clips, each with the questions asked of it, and how: all tokens or a `share` of them, or the sieve at `keep`."""

    task: Task
    item: int
    asked: list[tuple[Example, tuple[Question, ...]]]
    share: float = 1.0
    keep: float = 1.0
    temperature: float | None = None  # of a soft gate
    target: Target = "agreed"  # of task distil
    figure: str = "right"  # what the share of right tokens is called


class Draws(Dataset[Any]):
    """One Draw an item, in any order always the same as long as the source is."""

    def __init__(self, source: Supply, stage: Stage, seed: int, number: int) -> None:
        self.source, self.stage, self.seed, self.number = source, stage, seed, number

    def __len__(self) -> int:
        return self.stage.steps * self.stage.accumulate

    def __getitem__(self, item: int) -> Draw:
        stage = self.stage
        rng = np.random.default_rng([self.seed, item, self.number])
        share = stage.share[item % len(stage.share)]
        if stage.task == "answers":
            return Draw("answers", item, self._whole(rng, stage.batch), share)
        if stage.full_every and item % stage.full_every == 0:
            return Draw("answers", item, self._whole(rng, stage.full_batch), figure="right_full")
        clips = self.source.draw(rng, stage.batch)
        asked = [(clip, tuple(pick(clip.questions, rng, 1))) for clip in clips]
        step = item // stage.accumulate
        keep = float(rng.choice(stage.ratios(step)))
        asked = [pair for pair in asked if pair[1]]
        return Draw(stage.task, item, asked, share, keep, stage.temperature_at(step), stage.target)

    def _whole(self, rng: np.random.Generator, n: int) -> list[tuple[Example, tuple[Question, ...]]]:
        """n clips, each with no more questions and statements than the stage wants, its `first` kinds before others.

        Of a few clips more those are left out that allow the fewest questions of these kinds.
        """
        stage = self.stage
        clips = self.source.draw(rng, n + (n // 4 if stage.first else 0))
        clips = sorted(clips, key=lambda clip: -sum(q.kind in stage.first for q in clip.questions))[:n]

        def some(all_: tuple[Question, ...], most: int) -> tuple[Question, ...]:
            drawn = [all_[int(i)] for i in rng.permutation(len(all_))]
            return tuple(sorted(drawn, key=lambda q: q.kind not in stage.first)[:most])

        return [(one, some(one.questions, stage.questions) + some(one.statements, stage.statements)) for one in clips]
