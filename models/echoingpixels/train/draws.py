"""The input of each step: clips and questions by seed, step and stage, so that a resumed run draws the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..errors import DataError
from ..synth.questions import Question, pick
from .clips import Clips
from .examples import STATEMENT, Asked, Example, Supply
from .recipe import Ask, Stage, Target


@dataclass(frozen=True)
class Draw:
    """Clips with the questions to ask, and how: from a `share` of the tokens, or through the sieve at `keep`."""

    task: str
    item: int
    asked: Asked
    share: float = 1.0
    keep: float = 1.0
    temperature: float | None = None  # of a soft gate
    reducer: str = "cs2"  # whose choice the soft gate follows
    target: Target = "agreed"  # of task distil, and of a soft gate with a weight
    distil_weight: float = 0.0
    focus: float = 0.0  # of task answers
    figure: str = "right"  # name of the accuracy in the log


class Draws(Dataset[Any]):
    """One Draw an item. An item depends on its number alone, and the processes of a run use items in turn."""

    def __init__(self, source: Supply, stage: Stage, seed: int, number: int, processes: int = 1) -> None:
        self.source, self.stage, self.seed, self.number = source, stage, seed, number
        self.a_step = stage.accumulate * processes
        self.pairs = source.pairs() if stage.epochs and isinstance(source, Clips) else []

    def __len__(self) -> int:
        return self.stage.steps * self.a_step

    def __getitem__(self, item: int) -> Draw:
        stage = self.stage
        rng = np.random.default_rng([self.seed, item, self.number])
        share = stage.share[item % len(stage.share)]
        if stage.task == "answers":
            return Draw("answers", item, self._whole(rng, stage.batch), share, focus=stage.focus)
        if stage.full_every and item % stage.full_every == 0:
            return Draw("answers", item, self._whole(rng, stage.full_batch), figure="right_full")
        asked = self._next(item) if stage.epochs else self._random(rng)
        step = item // self.a_step
        keep = float(rng.choice(stage.ratios(step)))
        temperature = stage.temperature_at(step)
        target, weight = stage.target, stage.distil_weight
        return Draw(stage.task, item, asked, share, keep, temperature, stage.reducer, target, weight)

    def _random(self, rng: np.random.Generator) -> Asked:
        """Clips of similar length with one question each."""
        drawn = [(clip, tuple(pick(clip.questions, rng, 1))) for clip in self.source.draw(rng, self.stage.batch)]
        return [pair for pair in drawn if pair[1]]

    def _next(self, item: int) -> Asked:
        """The next questions in an order that has every question once an epoch."""
        assert isinstance(self.source, Clips) and self.pairs, "SyncClips have no epochs"
        asked = []
        for place in range(item * self.stage.batch, (item + 1) * self.stage.batch):
            epoch, place = divmod(place, len(self.pairs))
            order = np.random.default_rng([self.seed, epoch, self.number, 1]).permutation(len(self.pairs))
            asked.append(self.source.ask(*self.pairs[int(order[place])]))
        return asked

    def _whole(self, rng: np.random.Generator, n: int) -> Asked:
        """n clips with several questions each."""

        def parts(clip: Example) -> tuple[Question, ...]:
            every = [*clip.questions, *clip.statements]
            return tuple(q for ask in self.stage.ask for q in pick([q for q in every if asks(ask, q)], rng, ask.most))

        drawn = [(clip, parts(clip)) for clip in self.source.draw(rng, n)]
        asked = [pair for pair in drawn if pair[1]]
        if not asked:
            what = f"None of {n} clips has a question that stage {self.stage.name!r} asks."
            raise DataError(what, "Check the kinds in its ask.")
        return asked


def asks(ask: Ask, question: Question) -> bool:
    """Whether a question is of one of the kinds to ask; statements only where their kind is named."""
    return question.kind in ask.kinds if ask.kinds else not question.kind.startswith(STATEMENT)
