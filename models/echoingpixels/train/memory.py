"""What a training step takes of one device's memory, from sizes alone. Knows nothing about recipes or weights.

Activations follow what the code does, as measured with PyTorch's profiler on a CPU (docs/training.md): a layer that is
checkpointed keeps its input and, while its own gradient is made, what one layer makes; others keep all they make.
Letters as elsewhere: L tokens, D width; M is the MLP's width. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..backbones.base import Shape

HALF, FULL = 2, 4  # bytes of a value in bfloat16 and in float32
ADAM = 2  # values that the optimizer keeps of each weight
LOGITS = 4  # float32 copies of an answer's logits, gradients included
CONTEXT = 600_000_000  # CUDA's own, before anything is put there
SPARE = 0.9  # of a device: fragments and what others hold take the rest


@dataclass(frozen=True)
class Pass:
    """Layers that are run forward and backward over `tokens` L, whose stream has values of so many bytes."""

    tokens: int
    layers: int
    value: int = HALF


@dataclass(frozen=True)
class Need:
    """Bytes on one device: frozen weights, those that learn with gradients and optimizer, and what a step makes."""

    frozen: int
    learned: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, and what CUDA itself takes."""
        return self.frozen + self.learned + self.activations + CONTEXT

    def fits(self, device: float) -> bool:
        """Whether a device of so many bytes is enough."""
        return self.total <= SPARE * device


def learned_bytes(weights: int, value: int, processes: int = 1) -> int:
    """Weights, their gradients and what AdamW keeps, in parts on several processes (FSDP)."""
    return weights * value * (2 + ADAM) // processes


def pass_bytes(shape: Shape, run: Pass, checkpointing: bool) -> int:
    """The most that one pass holds at any time, beside weights and their gradients."""
    mlp, width = shape.mlp, shape.width
    if checkpointing:
        each, once = width * run.value, HALF * (6 * mlp + 8 * width)
    else:
        each, once = 6 * mlp + 7 * run.value * width, 6 * mlp + 16 * width
    return run.tokens * (run.layers * each + once)


def step_bytes(shape: Shape, passes: list[Pass], together: bool, checkpointing: bool, answer: int, quant: bool) -> int:
    """One step: its passes `together`, one after the other's backward if not, the answers' logits and temporaries."""
    each = [pass_bytes(shape, run, checkpointing) for run in passes]
    weight = 2 * HALF * shape.mlp * shape.width if quant else 0  # a matrix made whole, and its transpose
    return (sum(each) if together else max(each, default=0)) + answer * shape.vocab * FULL * LOGITS + weight
