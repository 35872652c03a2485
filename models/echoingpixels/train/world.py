"""How many processes train together, and which of them this is. Knows nothing about what is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def world() -> Any:
    """accelerate's state: of one process, or of those that `accelerate launch` started, each with its own device."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def is_sharded(module: nn.Module) -> bool:
    """Whether its weights lie in parts on several processes."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) for weight in module.parameters())
