"""A decoder layer's MLP over a long stream, part after part: what it holds between its products does not grow.

Knows nothing about which MLP it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOKENS = 1024  # of a part: enough to keep a processor busy


class InParts(nn.Module):
    """An MLP whose weights keep their names, and which takes at most TOKENS tokens of (B, L, D) at once."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        for name, child in mlp.named_children():
            self.add_module(name, child)
        self._whole = [mlp]  # in a list it is no module of this one

    def forward(self, hidden: Tensor) -> Tensor:
        """As the whole gives it: tokens do not see one another here."""
        (whole,) = self._whole
        if hidden.shape[1] <= TOKENS:
            made: Tensor = whole(hidden)
            return made
        return torch.cat([whole(part) for part in torch.split(hidden, TOKENS, 1)], 1)
