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

from ..backbones.qwen_omni import QwenOmni
from .towers import SeenHeads

FITTED = 200  # batches that the heads are fitted to
ROUNDS = 150  # of L-BFGS
DECAY = 1e-5
ANCHOR = 0.5  # weight of the features' squared distance from what they were, as a share of their own square


class Sharpened(nn.Module):
    """The vision tower, what it was, and heads, which are fitted before the first step.

    To `samples`, drawn as the batches of task towers.
    """

    def __init__(self, backbone: QwenOmni, samples: Iterable[dict[str, Any]]) -> None:
        super().__init__()
        self.visual = backbone.thinker.model.visual
        self.before = deepcopy(self.visual).requires_grad_(False)
        self.heads = SeenHeads(backbone.shape.width).requires_grad_(False)
        for head in self.heads.parameters():
            nn.init.zeros_(head)
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
        shown = self.heads(features)
        total = self.heads.loss(shown, batch) + ANCHOR * moved
        return total, {"moved": float(moved.detach()), **self.heads.figures(shown, batch)}

    def _fit(self, samples: Iterable[dict[str, Any]]) -> None:
        """Find the heads that tell most from the features as they were, then hold them."""
        features, objects, quarters = (torch.cat(parts) for parts in zip(*self._features(samples), strict=True))
        self.heads.requires_grad_(True)
        weights = list(self.heads.parameters())
        search = torch.optim.LBFGS(weights, max_iter=ROUNDS, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            total = self.heads.loss(self.heads(features), {"seen": objects, "quadrant": quarters})
            total = total + DECAY * self.heads.seen.weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            search.step(closure)  # type: ignore[no-untyped-call]
        search.zero_grad()
        self.heads.requires_grad_(False)

    @torch.no_grad()
    def _features(self, samples: Iterable[dict[str, Any]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        device = self.heads.seen.weight.device
        for sample in samples:
            batch = {name: sample[name].to(device) for name in ("patches", "grid", "seen", "quadrant")}
            made = self.before(batch["patches"], grid_thw=batch["grid"]).pooler_output
            yield made.float(), batch["seen"], batch["quadrant"]
