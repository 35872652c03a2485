"""A decoding step as a compiled program, and on CUDA as a recorded graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .fixed_cache import Step

SHAPES = 256  # programs at most: 8 numbers of rows by 32 lengths, each a power of two


def compiled(step: Step, device: torch.device) -> Step:
    """The same step, compiled at the first call with each shape of the KV cache (`FixedCache.size`).

    All shapes are static. On CUDA the program is recorded as a CUDA graph, which starts all kernels at once. It never
    falls back to the plain step: ModelError where it cannot be compiled as a whole.
    """
    graphs = device.type == "cuda"
    mode = "reduce-overhead" if graphs else None
    options: Any = {"recompile_limit": SHAPES}  # not in the types of its overloads
    program = torch.compile(step, fullgraph=True, dynamic=False, mode=mode, **options)

    def call(token: Tensor, position: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        if graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            made: Tensor = program(token, position, mask, cache)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            reason = " ".join(str(error).split("\n\n")[0].split())  # advice to PyTorch's developers follows
            hint = "Leave --compile out. On a CPU it needs a C++ compiler, such as g++."
            raise ModelError(f"The decoding step cannot be compiled: {reason}", hint) from error
        return made.clone() if graphs else made  # the graph writes its next result over this one

    return call
