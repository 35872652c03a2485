"""Makes the question sets and answers them for every cell that is not measured yet.

Clips are encoded once and cached; a score that several reducers and keep ratios use is computed once for each batch of
questions.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import torch
import transformers

from echoingpixels.backbones.base import Backbone
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.features.cache import FeatureCache
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions, MediaOptions, reuse_name
from echoingpixels.reducers.cs2 import Sieve
from echoingpixels.reducers.registry import REDUCERS, register
from echoingpixels.reducers.score import Scored, Scorer
from echoingpixels.reducers.setting import Setting
from echoingpixels.synth.dataset import generate
from epcli.console import progress, say

from .plan import FUSED, OWN, SETS, Cell, QuestionSet
from .store import Store

SLICE = 240  # questions between two writes of the cells
QUESTIONS_A_CLIP = 3
SHORT = GenerateOptions(max_new_tokens=8)  # answers are a word or two

Rule = Callable[[Backbone, Sieve | None, TokenStream], Scored]


@dataclass
class Once:
    """A score's rule that keeps its last result, and returns it for the same sieve and an equal stream."""

    rule: Rule
    last: tuple[Sieve | None, TokenStream, Scored] | None = field(default=None, init=False, repr=False)

    def __call__(self, backbone: Backbone, sieve: Sieve | None, stream: TokenStream) -> Scored:
        """The score of a stream."""
        if self.last is None or self.last[0] is not sieve or not _equal(self.last[1], stream):
            self.last = sieve, stream, self.rule(backbone, sieve, stream)
        return self.last[2]

    def __repr__(self) -> str:
        return repr(self.rule)  # the definition of a reducer, which cells are filed under, stays the same


def _equal(one: TokenStream, other: TokenStream) -> bool:
    return torch.equal(one.mask, other.mask) and torch.equal(one.embeds, other.embeds)


@contextmanager
def shared_scores() -> Iterator[None]:
    """Inside, all reducers with one score share its results."""
    before, shared = dict(REDUCERS), dict[Scorer, Scorer]()
    for name, reducer in before.items():
        scorer = shared.setdefault(reducer.scorer, replace(reducer.scorer, score=Once(reducer.scorer.score)))
        register(name, replace(reducer, scorer=scorer))
    try:
        yield
    finally:
        for name, reducer in before.items():
            register(name, reducer)


def make(store: Store, one: QuestionSet) -> None:
    """Make the clips and questions of a set, unless it has enough; another tool makes sets without a seed."""
    path = store.questions(one.name)
    clips = min(one.clips, -(-store.most // 2))  # a clip may have fewer questions than three
    if one.clips and (not path.exists() or len(path.read_text().splitlines()) < min(store.most, 2 * one.clips)):
        with progress(f"{one.name}: clips") as on_clip:
            generate(path.parent, clips, one.seed, QUESTIONS_A_CLIP, on_clip, regimes=one.regimes)


def measure(store: Store, cells: Iterable[Cell]) -> None:
    """Measure the cells that are not in the store, those of one set and sieve together."""
    wanted = list(cells)
    for name in dict.fromkeys(cell.of for cell in wanted):
        make(store, SETS[name])
    groups: dict[tuple[int, str, str, str], list[Cell]] = {}
    for cell in wanted:
        groups.setdefault(_together(cell), []).append(cell)
    for (_, sieve, reuse, name), part in groups.items():
        if not store.rows(part[0]):
            say(f"{name}: {store.questions(name)} does not exist")
            continue
        missing = [cell for cell in part if store.get(cell) is None]
        model = with_sieve(store, sieve, part[0].reuse) if missing else None
        if model is not None:
            say(f"{name}, sieve {sieve}, reuse {reuse}: {len(missing)} of {len(part)} cells to measure")
            with shared_scores():
                _answer(store, model, missing)


def _together(cell: Cell) -> tuple[int, str, str, str]:
    """The number of questions, sieve, threshold of reuse and set: cells that share them are measured together."""
    return cell.questions, cell.sieve, reuse_name(cell.reuse), cell.of


def with_sieve(store: Store, sieve: str, reuse: float | None) -> EchoingPixels | None:
    """The model with one of its sieves or a trained variant; None where there is none and it cannot be trained."""
    if sieve in (OWN, FUSED):
        exists = store.sieve_folder(sieve).is_dir()
        return load(store.model, reuse=reuse, sieve=str(store.sieve_folder(sieve))) if exists else None
    from .sieves import trained  # it loads the trainer

    model = load(store.model, reuse=reuse)
    found = trained(model, sieve, store.sieve_folder(sieve))
    if found is None:
        say(f"{sieve}: no features to train it with; run `make train` first")
        return None
    model.sieve = found
    return model


def _answer(store: Store, model: EchoingPixels, cells: list[Cell]) -> None:
    """Answer the questions of cells of one set and one number of questions, slice by slice."""
    rows, cache = store.rows(cells[0]), FeatureCache(store.folder / "features")
    with progress("questions") as on_slice:
        for start in range(0, len(rows), SLICE):
            end = min(len(rows), start + SLICE)
            open_ = {Setting(cell.reducer, cell.keep): cell for cell in cells if _answered(store, cell) < end}
            began = time.monotonic()
            runs = evaluate(model, rows[start:end], list(open_), MediaOptions(), SHORT, cache=cache)
            seconds = (time.monotonic() - began) / max(1, len(runs))
            for run in runs:
                cell = open_[run.setting]
                before = store.begun(cell).first(start)
                store.put(cell, before.and_then(run.outcomes, seconds, made()))
            on_slice(end, len(rows))


def _answered(store: Store, cell: Cell) -> int:
    return len(store.begun(cell).right)


def made() -> dict[str, str]:
    """What the figures were made with."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores ({platform.machine()})",
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
    }
