"""A vision encoder with one mask over all pairs of patches: the slow, obvious way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def dense(on: Any, pixels: Tensor, grid: tuple[int, int, int], cells: Tensor) -> tuple[Tensor, Tensor]:
    """Features (K, D) of the K cells (Nv,) bool, and the last layer's attention weights (H, 4 K, 4 K) of their patches.

    The patches (P, 1176) keep their order.
    """
    features, weights, _ = thinned(on, pixels, grid, cells, {})
    return features, weights


def thinned(
    on: Any,
    pixels: Tensor,
    grid: tuple[int, int, int],
    cells: Tensor,
    shares: Mapping[int, float],
    pick: str = "maxmin",
) -> tuple[Tensor, Tensor, Tensor]:
    """The same where the encoder keeps `shares[n]` of each step's cells after n layers; and the cells that it kept."""
    cell = torch.arange(len(pixels)) // 4
    columns, each = grid[2] // 2, grid[1] * grid[2] // 4
    step, row, column = cell // each, cell % each // columns, cell % columns
    within = torch.arange(len(pixels)) % 4
    wide = on.window_size // 28
    window = (step * 1000 + row // wide) * 1000 + column // wide
    chosen = cells[cell].nonzero()[:, 0]
    places = torch.stack([2 * row + within // 2, 2 * column + within % 2], 1)
    hidden = on.patch_embed(pixels[chosen])
    new = torch.bincount(step[chosen], minlength=grid[0]) // 4
    for i, block in enumerate(on.blocks):
        if i in shares:
            corner = places[chosen] / torch.tensor(grid[1:])
            left = kept(hidden, corner, step[chosen], [math.ceil(shares[i] * n) for n in new.tolist()], pick)
            hidden, chosen = hidden[left], chosen[left]
        rotary = on.rotary_pos_emb(hidden, places[chosen])
        group = (step if i in on.fullatt_block_indexes else window)[chosen]
        made, weights = attend(block.attn, block.norm1(hidden), group[:, None] == group[None], rotary)
        hidden = hidden + made
        hidden = hidden + block.mlp(block.norm2(hidden))
    return on.merger(hidden), weights, cell[chosen][::4]


def kept(hidden: Tensor, places: Tensor, step: Tensor, most: list[int], pick: str) -> Tensor:
    """The patches (P,) bool of the cells that lie farthest apart, by state and place, `most` of each step."""
    mean, corner, of = hidden.view(-1, 4, hidden.shape[1]).mean(1), places[::4], step[::4]
    stay = torch.zeros(len(of), dtype=torch.bool)
    for number, k in enumerate(most):
        here = (of == number).nonzero()[:, 0]
        far = 1 - F.cosine_similarity(mean[here, None], mean[None, here], dim=-1)
        near = 0.5 * (corner[here, None] - corner[None, here]).norm(dim=-1)
        far = {"states": far, "places": near, "maxmin": far + near}[pick]
        others = far + torch.eye(len(here)) * 10
        chosen = [int(others.min(1).values.argmax())] if k else []
        while len(chosen) < k:
            nearest = far[chosen].min(0).values
            nearest[chosen] = -1
            chosen.append(int(nearest.argmax()))
        stay[here[chosen]] = True
    return stay.repeat_interleave(4)


def attend(attention: Any, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The module's result (P, D), and its weights (H, P, P), under a mask over all pairs."""

    def heads(linear: Any) -> Tensor:
        return linear(x).view(len(x), attention.num_heads, -1).transpose(0, 1)  # type: ignore[no-any-return]

    def turned(y: Tensor) -> Tensor:
        half = y.shape[-1] // 2
        return y * rotary[0] + torch.cat([-y[..., half:], y[..., :half]], -1) * rotary[1]

    q, k, v = turned(heads(attention.q)), turned(heads(attention.k)), heads(attention.v)
    weights = F.softmax((q @ k.transpose(1, 2) * attention.scaling).masked_fill(~mask, -torch.inf), -1)
    out: Tensor = attention.proj((weights @ v).transpose(0, 1).reshape(len(x), -1))
    return out, weights
