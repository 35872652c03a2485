"""The reducers by name: a score, a pick and a budget, which choose the tokens of a stream that the decoder reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..backbones.base import Backbone, Shape
from ..inputs.token_stream import Selection, TokenStream
from ..options import AskOptions
from ..reducer_names import PLUGINS, REDUCER_NAMES, add_name, check_reducer
from .budget import Budget, EachWindow, OnePool, Whole
from .chunked_scoring import passes
from .cs2 import Sieve
from .in_decoder import FASTV, SEATS, DropPlan, Schedule
from .pick import AtRandom, Even, MaxMin, Pick, TopK
from .score import CS2, NONE, NOVELTY, RELEVANCE, SALIENCY, Scorer

FLOOR = 0.2  # least share of the budget of each modality, for models without a sieve
BEST, POOL = TopK(), OnePool()
COVERED = 0.25  # share of relevance's budget that is spread evenly over windows of time


@dataclass(frozen=True)
class Reducer:
    """Scores tokens, ranks them by scores and embeddings, and keeps the best within a budget.

    With a schedule, these tokens enter the decoder, and some are dropped inside, so that the ratio is the mean over its
    layers.
    """

    scorer: Scorer = NONE
    pick: Pick = BEST
    budget: Budget = POOL
    schedule: Schedule | None = None

    def entry(self, layers: int, keep: float) -> DropPlan:
        """The share of the tokens that enters a decoder of `layers` layers, and the drops inside."""
        return DropPlan(keep, ()) if self.schedule is None else self.schedule.at(layers, keep)

    @property
    def reads_question(self) -> bool:
        """Whether another question about a clip may change the tokens that the decoder's layers read."""
        return self.scorer.reads_question or self.schedule is not None

    def choose(self, backbone: Backbone, sieve: Sieve | None, stream: TokenStream, keep: float) -> Selection:
        """The tokens to keep; changes nothing. Text is always kept."""
        made = self.scorer.score(backbone, sieve, stream)
        chosen = self._picked(self.pick, made.scores, stream, self.entry(backbone.shape.layers, keep))
        return replace(chosen, scores=made.scores, fused=made.fused)

    def _picked(self, pick: Pick, scores: Tensor | None, stream: TokenStream, entry: DropPlan) -> Selection:
        chosen = self.budget.fill(pick.rank(stream, scores, self.budget, entry.share), stream, entry.share)
        kept = self.budget.counts(stream, entry.share)
        return Selection(chosen | (stream.mask & ~stream.pool), drops=entry.drops, kept=kept)

    def flops(self, shape: Shape, sieve: Sieve | None, pool: int, text: int) -> float:
        """Floating-point operations to choose among `pool` audio and video tokens beside `text` tokens."""
        scoring = sum(self.scorer.flops(shape, sieve, tokens) for tokens in passes(pool, text))
        return scoring + self.pick.flops(shape, pool)

    def kept_without_a_model(self, stream: TokenStream, keep: float, layers: int) -> Selection:
        """A selection of the same numbers of tokens, as far as they do not depend on scores and embeddings."""
        pick = self.pick if isinstance(self.pick, AtRandom) else Even()
        return self._picked(pick, None, stream, self.entry(layers, keep))


REDUCERS: dict[str, Reducer] = {
    "cs2": Reducer(CS2, BEST, POOL),
    "cs2-maxmin": Reducer(CS2, MaxMin(), POOL),
    "maxmin": Reducer(NONE, MaxMin(), POOL),
    "maxmin-floors": Reducer(NONE, MaxMin(), OnePool(modality=FLOOR)),
    "relevance": Reducer(RELEVANCE, BEST, OnePool(time=COVERED)),
    "relevance-maxmin": Reducer(RELEVANCE, MaxMin(), OnePool(modality=FLOOR)),
    "diverse": Reducer(NONE, MaxMin(), EachWindow()),
    "diverse-saliency": Reducer(SALIENCY, MaxMin(plain=True), EachWindow()),
    "seats": Reducer(NONE, MaxMin(), EachWindow(), SEATS),
    "fastv": Reducer(NONE, BEST, Whole(), FASTV),
    "repeats": Reducer(NOVELTY, BEST, POOL),
    "uniform": Reducer(NONE, Even(), POOL),
    "random": Reducer(NONE, AtRandom(), POOL),
    "full": Reducer(NONE, BEST, Whole()),
}
assert list(REDUCERS) == REDUCER_NAMES, "reducer_names.py names the reducers"


def shares_prefix(options: AskOptions) -> bool:
    """Whether answers share what the decoder has read of a clip (`generation.prefix`)."""
    grows = not (options.generate.static or options.generate.compile)
    return options.reuse_prefix and grows and not reducer_named(options.reducer).reads_question


def register(name: str, reducer: Reducer) -> None:
    """Add a reducer, or replace one, under a name that options and commands then accept."""
    REDUCERS[name] = reducer
    add_name(name, reducer.scorer.needs_sieve, reducer.schedule is not None)


def reducer_named(name: str) -> Reducer:
    """The reducer of a name; OptionError for an unknown one, EpError for one of another package that does not load."""
    check_reducer(name)
    return REDUCERS[name] if name in REDUCERS else PLUGINS[name]
