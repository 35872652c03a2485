"""Logistic regression for a sieve's calibration: the chance of a right answer, from features and the keep ratio."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS, ROWS_EACH = 12, 30  # the largest number of principal directions, and rows needed for each
RIDGE = 1e-3  # of the squared weights beside the mean loss
STEPS = 300  # of L-BFGS, at most


@dataclass(frozen=True)
class Fit:
    """The logit at x: (1, f) · level + x · (1, f) · slope + x² · curve; level and slope (F + 1,) float64."""

    level: Tensor
    slope: Tensor
    curve: float


def fit(features: Tensor, x: Tensor, right: Tensor) -> Fit:
    """The maximum-likelihood fit to N answers, right or not (N, X) bool at each x (X,); features (N, F).

    Features are projected on their principal directions, scaled to equal spread; the number of directions grows with N.
    """
    mean, along = _directions(features.double())
    z = (features.double() - mean) @ along  # (N, R)
    known = torch.cat([torch.ones_like(z[:, :1]), z], 1)
    x = x.double()
    weights = torch.zeros(2 * known.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        level, slope, curve = _parts(weights)
        logits = (known @ level)[:, None] + x * (known @ slope)[:, None] + x.square() * curve
        value = F.binary_cross_entropy_with_logits(logits, right.double()) + RIDGE * weights[1:].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    level, slope, curve = _parts(weights.detach())
    return Fit(_back(level, mean, along), _back(slope, mean, along), float(curve))


def _directions(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (F,), and the directions of the largest spread, scaled to a spread of 1: (F, R)."""
    mean = features.mean(0)
    _, sizes, along = torch.linalg.svd(features - mean, full_matrices=False)
    n = max(1, min(DIRECTIONS, len(features) // ROWS_EACH, int((sizes > 1e-6 * sizes[0]).sum())))
    spread = (sizes[:n] / max(1, len(features)) ** 0.5).clamp(min=1e-12)
    return mean, along[:n].T / spread


def _parts(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n = len(weights) // 2
    return weights[:n], weights[n : 2 * n], weights[-1]


def _back(weights: Tensor, mean: Tensor, along: Tensor) -> Tensor:
    """Weights of (1, z) as weights of (1, f)."""
    of_features = along @ weights[1:]
    return torch.cat([weights[:1] - mean @ of_features, of_features])
