"""A decoding step as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError

Step = Callable[[Tensor, Tensor, Tensor | None, Any], Tensor]


def compiled(step: Step) -> Step:
    """The same step, compiled at its first call: once for one row and once for several, at any length of the cache.

    It never falls back to the plain step: ModelError where it cannot be compiled as a whole.
    """
    program = torch.compile(step, fullgraph=True, dynamic=True)

    def call(token: Tensor, position: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            return program(token, position, mask, cache)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            reason = " ".join(str(error).split("\n\n")[0].split())  # advice to PyTorch's developers follows
            hint = "Leave --compile out. On a CPU it needs a C++ compiler, such as g++."
            raise ModelError(f"The decoding step cannot be compiled: {reason}", hint) from error

    return call
