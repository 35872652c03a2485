"""The optimizers of a stage: AdamW, or Muon for the matrices of the layers and AdamW for all other weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.98)
MUON_RATE = 4.0  # Muon's learning rate as a multiple of AdamW's
LAYERS = ("layers", "blocks")  # modules whose matrices Muon trains


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) over matrices (R, C), with updates as large as AdamW's, and AdamW over other weights.

    Its parameter groups and its state are those of the two optimizers, one after the other.
    """

    def __init__(self, matrices: Sequence[Tensor], others: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        muon = torch.optim.Muon(matrices, lr=MUON_RATE * lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.parts = (muon, torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, betas=BETAS))
        self.defaults = self.parts[1].defaults

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        """The groups of both."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of both."""
        return {**self.parts[0].state, **self.parts[1].state}

    def state_dict(self) -> dict[str, Any]:
        """The state of both, for a checkpoint."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)

    def step(self, closure: Any = None) -> Any:
        """One step of each."""
        for part in self.parts:
            part.step()  # type: ignore[no-untyped-call]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)


def optimizer_of(
    name: str, weights: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer `name` over named weights that learn; `adamw` or `muon`."""
    named = [(where, weight) for where, weight in weights if weight.requires_grad]
    matrices = [weight for where, weight in named if weight.ndim == 2 and set(where.split(".")) & set(LAYERS)]
    if name == "adamw" or not matrices:
        return torch.optim.AdamW([weight for _, weight in named], lr=lr, weight_decay=weight_decay, betas=BETAS)
    taken = {id(weight) for weight in matrices}
    return MuonAdamW(matrices, [weight for _, weight in named if id(weight) not in taken], lr, weight_decay)
