"""The figures of a server with replicas: its own, and those of each replica with its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import Metric

from ..metrics import Metrics
from .replica import ReplicaFigures


class Gathered:
    """A collector of the replicas' figures."""

    def __init__(self, gather: Callable[[], Sequence[ReplicaFigures]], names: Sequence[str]) -> None:
        self._gather, self._names = gather, names

    def collect(self) -> Iterator[Metric]:
        """One family for all replicas, whose samples have the label `replica`."""
        families: dict[str, Metric] = {}
        for one in self._gather():
            for family in one.families:
                if family.name in self._names:
                    made = Metric(family.name, family.documentation, family.type)
                    joined = families.setdefault(family.name, made)
                    for sample in family.samples:
                        joined.add_sample(sample.name, {**sample.labels, "replica": one.replica}, sample.value)
        yield from families.values()


def with_replicas(gather: Callable[[], Sequence[ReplicaFigures]]) -> Metrics:
    """Metrics of a server: questions are counted by itself, the rest by its replicas."""
    metrics = Metrics()
    theirs = (metrics.batch, metrics.seconds, metrics.tokens, metrics.generated, metrics.clips, metrics.memory)
    names = [family.name for one in theirs for family in one.describe()]
    for one in theirs:
        metrics.registry.unregister(one)
    metrics.registry.register(Gathered(gather, names))
    return metrics
