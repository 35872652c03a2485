"""Encoder saliency: the attention that a token receives in the last layer of its encoder, inside its window.

Sum over the window's queries, mean over heads, mean over the places that become one token; the mean of a window is 1.
Source: SEATS (arXiv 2605.20035), stage 1. The layer's own queries and keys are captured while it runs. Only their
product and its softmax are computed beside it, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor

LOCK = Lock()


class Received:
    """The attention that each place (P,) receives in an attention module, float32, once the module has run."""

    def __init__(self, bounds: Tensor) -> None:
        self._bounds = bounds
        self._projected: list[Tensor] = []  # queries and keys, (P, H * d) each
        self._places: Tensor | None = None

    def tokens(self, unit: int) -> Tensor:
        """Mean over each `unit` places in a row: (P / unit,)."""
        return self.places.view(-1, unit).mean(1)

    @property
    def places(self) -> Tensor:
        """The attention received, (P,) float32."""
        assert self._places is not None, "the attention module has not run"
        return self._places

    def project(self, module: Any, given: Any, made: Tensor) -> None:
        """Hook of the projections of queries and of keys, which run in this order."""
        self._projected.append(made.detach())

    @torch.no_grad()
    def attend(self, module: Any, given: Any, options: dict[str, Any], made: Any) -> None:
        """Hook of the attention module, after its run."""
        queries, keys = (x.view(len(x), module.num_heads, -1) for x in self._projected)  # (P, H, d)
        self._projected.clear()
        with torch.autocast(queries.device.type, enabled=False):
            if options.get("position_embeddings") is not None:
                queries, keys = _rotated(queries, keys, *options["position_embeddings"])
            self._places = received(queries, keys, self._bounds, module.scaling)


@contextmanager
def receiving(attention: Any, bounds: Tensor) -> Iterator[Received]:
    """Inside, the next run of an encoder's attention module also computes the attention received.

    One thread at a time is inside: torch's lists of hooks must not change while another thread runs the module.
    `bounds` (N + 1,): bounds of its windows, on the CPU, so that the host waits for no device.
    """
    found = Received(bounds)
    names = ("q", "k") if hasattr(attention, "q") else ("q_proj", "k_proj")
    with LOCK, ExitStack() as hooks:
        for name in names:
            hooks.callback(getattr(attention, name).register_forward_hook(found.project).remove)
        hooks.callback(attention.register_forward_hook(found.attend, with_kwargs=True).remove)
        yield found


def _rotated(queries: Tensor, keys: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb_vision

    rotated: tuple[Tensor, Tensor] = apply_rotary_pos_emb_vision(queries, keys, cos, sin)
    return rotated


def received(queries: Tensor, keys: Tensor, bounds: Tensor, scaling: float = 1.0) -> Tensor:
    """Attention weights in windows, summed over queries, mean over heads: (P,) float32.

    `queries` and `keys` (P, H, d); `bounds` (N + 1,) of windows that follow one another, on the CPU. At most half as
    many weights are in memory at once as the queries have values.
    """
    at_once, first, made = queries.numel() // 2, 0, []
    lengths, times = torch.unique_consecutive(bounds.diff(), return_counts=True)
    for length, windows in zip(lengths.tolist(), times.tolist(), strict=True):
        each = max(1, at_once // (queries.shape[1] * length**2)) * length  # places of the windows computed together
        for start in range(first, first + windows * length, each):
            part = slice(start, min(start + each, first + windows * length))
            made.append(_equal_windows(queries[part], keys[part], length, scaling, at_once))
        first += windows * length
    return torch.cat(made)


def _equal_windows(queries: Tensor, keys: Tensor, length: int, scaling: float, at_once: int) -> Tensor:
    """The same for windows of one length, in blocks of queries where one window has too many weights."""
    _, heads, size = queries.shape
    each = [x.float().view(-1, length, heads, size).transpose(1, 2) for x in (queries, keys)]  # (N, H, K, d)
    q, k = (x.reshape(-1, length, size) for x in each)  # (N * H, K, d)
    total = q.new_zeros(len(q) // heads, length)
    for block in torch.split(q, max(1, at_once // (heads * length)), dim=1):
        logits = torch.baddbmm(block.new_empty(1), block, k.transpose(1, 2), beta=0, alpha=scaling)
        total += logits.softmax(-1).view(len(total), -1, length).sum(1)
    return total.flatten() / heads
