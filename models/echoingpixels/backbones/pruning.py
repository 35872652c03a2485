"""Selection inside the vision encoder: after some of its layers, a share of each temporal step's cells goes on.

A cell is 2 x 2 patches, which become one token. Kept are the cells that lie farthest apart (greedy max-min) by the mean
hidden state of their patches and by their places in the frame, or by one of both. The layers that follow, and the
merger, run on these alone, at their own positions and inside their own windows and frames; the others never become a
token. transformers' layers are called as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError
from ..inputs.farthest import distances, farthest
from ..options.encoder_keep import EncoderKeep, Pick
from .saliency import receiving

ROUNDING = 1e-9  # of a share in float64: 0.3 of 10 cells is 3
PLACE = 0.5  # weight of the distance in the frame, in its sides, beside 1 - cosine of the states (docs/log.md)
VARLEN = "ep_flash_varlen"  # attention over all windows in one call; transformers passes bounds to names with "flash"


@dataclass(frozen=True)
class PruneStep:
    """After `layers` of the encoder's layers, a share of the cells that entered it goes on, chosen by `pick`."""

    layers: int
    share: float
    pick: Pick = "maxmin"

    def kept(self, cells: int) -> int:
        """The number of `cells` new ones of a temporal step that goes on."""
        return math.ceil(cells * self.share - ROUNDING)


@dataclass(frozen=True)
class Arranged:
    """K cells of a part of a clip, in the encoder's order of windows; steps and windows follow one another."""

    patches: Tensor  # (4 K, 1176), on any device, in the clip's order
    places: Tensor  # (4 K, 2) int64 row and column of each patch, in the clip's order
    corner: Tensor  # (K, 2) place of each cell in shares of the frame's sides, in the clip's order
    index: Tensor  # (K,) int64, the number of each cell among the K
    steps: Tensor  # (T + 1,) int32 bounds of the temporal steps in patches, on the CPU
    windows: Tensor  # (N + 1,) int32 bounds of the windows in patches, on the CPU


def default_layers(encoder: Any, drops: int = 1) -> tuple[int, ...]:
    """Layers before each of an encoder's drops, if none are given: from a quarter on, at least 2, after full attention.

    8, 16 and 24 of the 32 of Qwen2.5-Omni, 2 and 3 of the 4 of tiny; half of them where no such layer is followed by
    another. Fewer than `drops` where the encoder has no more.
    """
    depth, full = len(encoder.blocks), encoder.fullatt_block_indexes
    found = [n for n in range(max(2, math.ceil(depth / 4)), depth) if n - 1 in full]
    return tuple(found or [max(1, depth // 2)])[:drops]


def prune_steps(encoder: Any, keep: EncoderKeep | None) -> tuple[PruneStep, ...]:
    """Where an encoder drops cells, first one first; OptionError for a layer that it does not have."""
    if keep is None:
        return ()
    layers = keep.layers or default_layers(encoder, len(keep.shares))
    if layers[-1] >= len(encoder.blocks):
        what = f"The vision encoder has {len(encoder.blocks)} layers, and encoder keep {keep} needs more than that."
        raise OptionError(what, f"Give a number of layers below {len(encoder.blocks)}.")
    return tuple(PruneStep(n, share, keep.pick) for n, share in zip(layers, keep.shares, strict=False))


def encode_pruned(encoder: Any, cells: Arranged, prune: Sequence[PruneStep]) -> tuple[Tensor, Tensor, Tensor]:
    """Features (K, D) and saliency (K,) of the K cells, and the kept ones (K,) bool; the others have zeros.

    The host waits only where windows are attended one by one, for their sizes.
    """
    device, last = encoder.device, len(encoder.blocks) - 1
    index = cells.index.to(device, non_blocking=True)
    places = cells.places.to(device, non_blocking=True)
    hidden = encoder.patch_embed(cells.patches.to(device, non_blocking=True).to(encoder.dtype))
    rotary: tuple[Tensor, ...] = encoder.rotary_pos_emb(hidden, places)
    corner = cells.corner.to(device, non_blocking=True)
    state = _Cells(encoder, index, corner, hidden, rotary, cells.steps, cells.windows)
    entered = (cells.steps.diff() // encoder.spatial_merge_unit).tolist()
    first = 0
    for step in prune:
        state.run(first, step.layers)
        state.keep([step.kept(n) for n in entered], step)
        first = step.layers
    state.run(first, last)
    with receiving(encoder.blocks[last].attn, state.on_cpu(last)) as attention:
        state.run(last, last + 1)
    made, saliency = encoder.merger(state.hidden), attention.tokens(encoder.spatial_merge_unit)
    features = made.new_zeros(len(index), made.shape[1]).index_copy(0, state.index, made)
    kept = torch.zeros(len(index), dtype=torch.bool, device=device).index_fill(0, state.index, True)
    return features, saliency.new_zeros(len(index)).index_copy(0, state.index, saliency), kept


class _Cells:
    """The cells that the encoder still has, between two of its layers.

    `index` (K,), `corner` (K, 2), `hidden` (4 K, C) and the two `rotary` (4 K, d) are on the device; all but the first
    come in the clip's order. Bounds are in patches.
    """

    def __init__(
        self,
        encoder: Any,
        index: Tensor,
        corner: Tensor,
        hidden: Tensor,
        rotary: tuple[Tensor, ...],
        steps: Tensor,
        windows: Tensor,
    ) -> None:
        self.encoder, self.unit = encoder, encoder.spatial_merge_unit
        self.index, self.corner = index, corner
        self.hidden, *self.rotary = (
            encoder.permute_input_for_window_attn(x, index, seq_len=len(x)) for x in (hidden, *rotary)
        )
        self.steps, self.windows = steps, window_bounds(encoder, windows)

    def run(self, first: int, end: int) -> None:
        """Run the layers from `first` to before `end`."""
        full = window_bounds(self.encoder, self.steps)
        for i in range(first, end):
            bounds, longest = full if i in self.encoder.fullatt_block_indexes else self.windows
            layer, how = self.encoder.blocks[i], {"cu_seqlens": bounds, "max_seqlen": longest}
            self.hidden = layer(self.hidden, **how, position_embeddings=tuple(self.rotary))

    def keep(self, most: list[int], prune: PruneStep) -> None:
        """Keep that many cells of each temporal step; none are dropped where all are to be kept."""
        n = self.steps.diff() // self.unit  # (T,)
        if most == n.tolist():
            return
        stay = self._chosen(n, most, prune.pick)
        places = stay.to(torch.uint8).argsort(descending=True, stable=True)[: sum(most)]  # ascending
        self.index = self.index[places]
        self.hidden, *self.rotary = (
            x.view(-1, self.unit, x.shape[1])[places].flatten(0, 1) for x in (self.hidden, *self.rotary)
        )
        self.steps = F.pad(torch.tensor(most).cumsum(0), (1, 0)).mul(self.unit).to(torch.int32)
        if any(i not in self.encoder.fullatt_block_indexes for i in range(prune.layers, len(self.encoder.blocks))):
            self.windows = self._windows(stay)

    @torch.no_grad()
    def _chosen(self, n: Tensor, most: list[int], pick: Pick) -> Tensor:
        """The cells to keep (K,) bool, `most` of the `n` (T,) of each step."""
        width, step = int(n.max()), torch.arange(len(n)).repeat_interleave(n)  # (K,)
        slot = step * width + torch.arange(len(step)) - (n.cumsum(0) - n)[step]  # (K,) in T rows of equal width
        cell = torch.zeros(len(n) * width, dtype=torch.long).scatter_(0, slot, torch.arange(len(step)))
        mask = torch.arange(width) < n[:, None]  # (T, width)
        slot, cell, mask, k = (
            x.to(self.hidden.device, non_blocking=True) for x in (slot, cell, mask, torch.tensor(most))
        )
        mean = self.hidden.view(len(step), self.unit, -1).float().mean(1)  # (K, C)
        corner = self.corner[self.index[cell]].view(*mask.shape, 2)
        far = PLACE * torch.cdist(corner, corner, compute_mode="donot_use_mm_for_euclid_dist")  # (T, width, width)
        if pick != "places":
            with torch.autocast(mean.device.type, enabled=False):
                apart = distances(mean[cell].view(*mask.shape, -1))
            far = apart if pick == "states" else apart + far
        return (farthest(far, mask, k, max(most)) > -torch.inf).flatten()[slot]

    def _windows(self, stay: Tensor) -> tuple[Tensor, int]:
        """Windows of the cells that stay (K,), as of `window_bounds`; of one call for all some are empty or shorter."""
        bounds, longest = self.windows
        if at_once(self.encoder):
            return counted(stay, bounds, self.unit), longest
        return window_bounds(self.encoder, torch.unique_consecutive(counted(stay.cpu(), bounds, self.unit)))

    def on_cpu(self, layer: int) -> Tensor:
        """The bounds of a layer's windows on the CPU, without empty ones."""
        if layer in self.encoder.fullatt_block_indexes:
            return self.steps
        bounds: Tensor = torch.unique_consecutive(self.windows[0].cpu())
        return bounds


def counted(cells: Tensor, edges: Tensor, unit: int) -> Tensor:
    """Bounds (N + 1,) int32 of patches at the same `edges`, counted over the patches of some cells (Nv,) bool alone."""
    made: Tensor = F.pad(cells.cumsum(0), (1, 0))[edges.long() // unit].mul(unit).to(torch.int32)
    return made


def at_once(encoder: Any) -> bool:
    """Whether the encoder attends to all windows in one call."""
    found: bool = encoder.config._attn_implementation == VARLEN
    return found


def window_bounds(encoder: Any, bounds: Tensor) -> tuple[Tensor, int]:
    """Bounds (N + 1,) int32 of an encoder's windows, on the device where its attention reads them; and the longest.

    One call for all windows takes them on the encoder's device; a call for each window reads them on the CPU.
    """
    longest = int(bounds.diff().max())
    return bounds.to(encoder.device, non_blocking=True) if at_once(encoder) else bounds, longest
