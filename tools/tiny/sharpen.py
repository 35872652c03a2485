"""Task sharpen: the vision encoder of a trained model learns to classify objects better, in the same feature space.

Linear heads are fitted to the features before training and then held, and the features stay near their old values: the
decoder and the sieves need not learn again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from echoingpixels.backbones.qwen_omni import QwenOmni

from .encoders import VideoHeads

FITTED = 200  # batches for fitting the heads
ROUNDS = 150  # of L-BFGS
DECAY = 1e-5
ANCHOR = 0.5  # weight of the features' squared distance from their old values, relative to their square


class Sharpened(nn.Module):
    """The vision encoder, a copy of it before training, and heads, fitted to `samples` before the first step."""

    def __init__(self, backbone: QwenOmni, samples: Iterable[dict[str, Any]]) -> None:
        super().__init__()
        self.visual = backbone.thinker.model.visual
        self.before = deepcopy(self.visual).requires_grad_(False)
        self.heads = VideoHeads(backbone.shape.width).requires_grad_(False)
        for head in self.heads.parameters():
            nn.init.zeros_(head)
        self._samples: Iterable[dict[str, Any]] | None = samples

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of both heads plus the relative change of the features; with their accuracies."""
        if self._samples is not None:
            self._fit(self._samples)
            self._samples = None
        features = self.visual(batch["patches"], grid_thw=batch["grid"]).pooler_output.float()  # (Nv, D)
        with torch.no_grad():
            old = self.before(batch["patches"], grid_thw=batch["grid"]).pooler_output.float()
        moved = (features - old).square().mean() / old.square().mean()
        logits = self.heads(features)
        total = self.heads.loss(logits, batch) + ANCHOR * moved
        return total, {"moved": float(moved.detach()), **self.heads.figures(logits, batch)}

    def _fit(self, samples: Iterable[dict[str, Any]]) -> None:
        """Fit the heads to the features before training, then hold them."""
        features, objects, quadrants = (torch.cat(parts) for parts in zip(*self._features(samples), strict=True))
        self.heads.requires_grad_(True)
        weights = list(self.heads.parameters())
        search = torch.optim.LBFGS(weights, max_iter=ROUNDS, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            total = self.heads.loss(self.heads(features), {"object": objects, "quadrant": quadrants})
            total = total + DECAY * self.heads.object.weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            search.step(closure)  # type: ignore[no-untyped-call]
        search.zero_grad()
        self.heads.requires_grad_(False)

    @torch.no_grad()
    def _features(self, samples: Iterable[dict[str, Any]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        device = self.heads.object.weight.device
        for sample in samples:
            batch = {name: sample[name].to(device) for name in ("patches", "grid", "object", "quadrant")}
            made = self.before(batch["patches"], grid_thw=batch["grid"]).pooler_output
            yield made.float(), batch["object"], batch["quadrant"]
