"""Task sharpen: the vision tower of a trained model learns to see SyncClips' objects better, in the terms that its
decoder and sieves already read.

Heads are fitted to the features as they are, then held: what is seen rightly later is told as it was told before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones.qwen_omni import QwenOmni
from . import labels
from .towers import NOTHING_WEIGHT, figures

FITTED = 200  # batches that the heads are fitted to
ROUNDS = 150  # of L-BFGS
DECAY = 1e-5
ANCHOR = 0.5  # weight of the features' squared distance from what they were, as a share of their own square


class Sharpened(nn.Module):
    """The vision tower, what it was, and heads for the object in each cell, frame by frame, and for the cell's quarter.

    The heads are fitted to `samples`, drawn as the batches of task towers, before the first step.
    """

    def __init__(self, backbone: QwenOmni, samples: Iterable[dict[str, Any]]) -> None:
        super().__init__()
        self.visual = backbone.thinker.model.visual
        self.before = deepcopy(self.visual).requires_grad_(False)
        self.seen = nn.Linear(backbone.shape.width, 2 * len(labels.SEEN), dtype=torch.float32)
        self.quadrant = nn.Linear(backbone.shape.width, 4, dtype=torch.float32)
        self._heads = [*self.seen.parameters(), *self.quadrant.parameters()]
        for head in self._heads:
            nn.init.zeros_(head).requires_grad_(False)
        self._samples: Iterable[dict[str, Any]] | None = samples

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of both heads and how far the features have moved; with their accuracies."""
        if self._samples is not None:
            self._fit(self._samples)
            self._samples = None
        features = self.visual(batch["patches"], grid_thw=batch["grid"]).pooler_output.float()  # (Nv, D)
        with torch.no_grad():
            was = self.before(batch["patches"], grid_thw=batch["grid"]).pooler_output.float()
        moved = (features - was).square().mean() / was.square().mean()
        told, seen, quadrant = self._told(features, batch["seen"], batch["quadrant"])
        return told + ANCHOR * moved, {
            "moved": float(moved.detach()),
            **dict(figures(seen, batch["seen"].flatten(), "seen")),
            **dict(figures(quadrant, batch["quadrant"], "quadrant")),
        }

    def _told(self, features: Tensor, objects: Tensor, quarters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropy, and the logits (2 Nv, classes) and (Nv, 4)."""
        seen = self.seen(features).unflatten(-1, (2, -1)).flatten(0, 1).float()
        quadrant = self.quadrant(features).float()
        weights = torch.ones(seen.shape[1], device=seen.device)
        weights[0] = NOTHING_WEIGHT
        total = F.cross_entropy(seen, objects.flatten(), weight=weights)
        if bool((quarters >= 0).any()):
            total = total + 0.3 * F.cross_entropy(quadrant, quarters)
        return total, seen, quadrant

    def _fit(self, samples: Iterable[dict[str, Any]]) -> None:
        """Find the heads that tell most from the features as they were, then hold them."""
        given = [torch.cat(parts) for parts in zip(*self._features(samples), strict=True)]
        for head in self._heads:
            head.requires_grad_(True)
        search = torch.optim.LBFGS(self._heads, max_iter=ROUNDS, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            total = self._told(*given)[0] + DECAY * self.seen.weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        with torch.enable_grad(), torch.autocast(given[0].device.type, enabled=False):
            search.step(closure)  # type: ignore[no-untyped-call]
        search.zero_grad()
        for head in self._heads:
            head.requires_grad_(False)

    @torch.no_grad()
    def _features(self, samples: Iterable[dict[str, Any]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        device = self.seen.weight.device
        for sample in samples:
            batch = {name: sample[name].to(device) for name in ("patches", "grid", "seen", "quadrant")}
            made = self.before(batch["patches"], grid_thw=batch["grid"]).pooler_output
            yield made.float(), batch["seen"], batch["quadrant"]
