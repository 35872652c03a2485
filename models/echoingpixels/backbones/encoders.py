"""The vision and audio encoders of Qwen2.5-Omni, with reuse of unchanged windows.

transformers' vision encoder is called with the window bounds and positions of some of a clip's cells (2 x 2 patches
over two frames, one token each). A cell is unchanged if it equals the cell last encoded at its place up to a threshold,
so that slow changes cannot accumulate; Run-Length Tokenization (arXiv 2411.05222) compares with the step before. All
cells of a window are reused, or none. In audio, silent windows of 2 s are encoded once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..inputs.patches import MERGE, windows
from ..inputs.prepare import audio_tokens
from ..options import Reuse
from ..options.encoder_keep import EncoderKeep
from .base import Encoding
from .pruning import Arranged, PruneStep, counted, encode_pruned, prune_steps, window_bounds
from .saliency import receiving


class VisionEncoder:
    """Encodes a clip's temporal steps in order, part by part; unchanged cells reuse the features last encoded there.

    With `keep` it drops cells inside. Each step keeps a share of its new cells; an unchanged cell stays or is absent as
    when it was last encoded.
    """

    def __init__(self, encoder: Any, reuse: Reuse = None, keep: EncoderKeep | None = None) -> None:
        self._encoder, self._prune = encoder, prune_steps(encoder, keep)
        self._reuse = TemporalReuse(reuse, attending(encoder))
        self._last: tuple[Tensor, ...] | None = None  # results of encode_cells, last encoded at each cell of a step

    def encode(self, patches: Tensor, rows: int, columns: int) -> Encoding:
        """Features of the next steps' patches (P, 1176), `rows` x `columns` in each step."""
        grid = len(patches) // (rows * columns), rows, columns
        new = self._reuse.changed(patches, grid)  # (T, N)
        made = encode_cells(self._encoder, patches, grid, new.flatten(), self._prune)
        cells = new.shape[1]
        last = tuple(x.new_zeros(cells, *x.shape[1:]) for x in made) if self._last is None else self._last
        rows_of = sources(new).flatten().to(made[0].device, non_blocking=True)
        features, saliency, *kept = (torch.cat(pair)[rows_of] for pair in zip(last, made, strict=True))
        self._last = tuple(x[-cells:].clone() for x in (features, saliency, *kept))
        return Encoding(features, saliency, new.flatten(), *kept)


def window(encoder: Any) -> int:
    """Cells a side of a window of the encoder's attention."""
    side: int = encoder.window_size // encoder.patch_size // encoder.spatial_merge_size
    return side


def attending(encoder: Any) -> int:
    """Cells a side of the region that attends together in most layers: a window, or a whole frame of any size."""
    windowed = 2 * len(encoder.fullatt_block_indexes) < len(encoder.blocks)
    return window(encoder) if windowed else sys.maxsize


def encode_cells(
    encoder: Any, patches: Tensor, grid: tuple[int, int, int], cells: Tensor, prune: Sequence[PruneStep] = ()
) -> tuple[Tensor, ...]:
    """Features (K, D) and saliency (K,) of the K cells (Nv,) bool of patches (P, 1176) in a grid (T, H, W).

    They attend to one another as in the whole clip: in their window of a frame, and in some layers in the frame. With
    `prune`, also which of them the encoder kept, (K,) bool; see `pruning.encode_pruned`.
    Indices are computed on the CPU: on a GPU the host would wait for each of their sizes.
    """
    from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

    device, unit = encoder.device, encoder.spatial_merge_unit
    size, cells = torch.tensor([grid]), cells.cpu()
    if not bool(cells.any()):
        none = torch.empty(0, encoder.config.out_hidden_size, device=device, dtype=encoder.dtype)
        nothing = torch.empty(0, device=device)
        return (none, nothing, nothing.bool()) if prune else (none, nothing)
    order, edges = get_vision_window_index(size, encoder.spatial_merge_size, encoder.window_size, encoder.patch_size)
    steps = torch.arange(grid[0] + 1) * grid[1] * grid[2]
    chosen = cells.repeat_interleave(unit)  # (P,)
    in_order = cells[order]
    part = patches[chosen.to(patches.device)] if not bool(cells.all()) else patches
    whole, small = _bounds(cells, steps, unit), _bounds(in_order, edges, unit)
    index = (cells.cumsum(0) - 1)[order[in_order]]  # (K,) the cell at each place in the encoder's order of windows
    places = get_vision_position_ids(size, encoder.spatial_merge_size)[chosen]
    if prune:
        corner = places[::unit] / torch.tensor(grid[1:])
        return encode_pruned(encoder, Arranged(part, places, corner, index, whole, small), prune)
    frames, longest = window_bounds(encoder, whole)
    windows, longest_window = window_bounds(encoder, small)
    last = len(encoder.blocks) - 1
    with receiving(encoder.blocks[last].attn, whole if last in encoder.fullatt_block_indexes else small) as attention:
        features: Tensor = encoder(
            part.to(device, non_blocking=True).to(encoder.dtype),
            grid_thw=size,
            position_ids=places.to(device, non_blocking=True),
            cu_seqlens=frames,
            max_seqlen=longest,
            window_index=index.to(device, non_blocking=True),
            cu_window_seqlens=windows,
            max_window_seqlen=longest_window,
        ).pooler_output
    return features, attention.tokens(unit)[index.argsort().to(device, non_blocking=True)]


def _bounds(cells: Tensor, edges: Tensor, unit: int) -> Tensor:
    """Bounds of the stretches of patches between `edges`, counted over the patches of these cells alone."""
    bounds: Tensor = torch.unique_consecutive(counted(cells, edges, unit))
    return bounds


SILENCE = -0.25  # scaled log-mel that no band of a silent window exceeds: about 75 dB below full scale


def encode_audio(encoder: Any, mel: Tensor, silence_once: bool = False) -> Encoding:
    """Features of Na tokens from log-mel (128, M).

    With `silence_once` all silent windows reuse the features of the first. A partial last window is always encoded.
    """
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni

    window, device = 2 * encoder.n_window, encoder.device
    parts = torch.split(mel, window, dim=1)
    silent = torch.tensor([silence_once and part.shape[1] == window and float(part.max()) <= SILENCE for part in parts])
    fresh = ~silent | (silent.cumsum(0) == 1)  # (windows,)
    sound = mel if bool(fresh.all()) else torch.cat([p for p, new in zip(parts, fresh, strict=True) if new], dim=1)
    lengths = torch.tensor([sound.shape[1]])  # all indices are computed on the CPU: the host waits for no size
    sound = sound.to(encoder.conv1.weight.dtype)
    padded, chunks = omni.chunk_and_pad_features(sound, lengths, encoder.n_window)
    edges = omni.get_audio_cu_seqlens(chunks)
    bounds, longest = window_bounds(encoder, edges)
    pairs = omni.get_pool_indices(lengths).to(device, non_blocking=True)  # (N,) the first place of each token's two
    with receiving(encoder.layers[-1].self_attn, edges) as attention:
        made: Tensor = encoder(
            feature_lens=lengths,
            padded_feature=padded.to(device, non_blocking=True),
            chunk_lengths=chunks.to(device, non_blocking=True),
            valid_indices=omni.get_valid_indices(chunks).to(device, non_blocking=True),
            pool_indices=pairs,
            cu_seqlens=bounds,
            max_seqlen=longest,
        ).last_hidden_state
    saliency = (attention.places[pairs] + attention.places[pairs + 1]) / 2
    each = audio_tokens(window)
    tokens = torch.arange(audio_tokens(mel.shape[1]))
    of = (tokens // each).clamp(max=len(parts) - 1)  # the window of each token
    rows = fresh.cumsum(0) - 1
    rows = torch.where(fresh, rows, rows[silent.int().argmax()])  # the windows' places among those encoded
    source = (rows[of] * each + tokens % each).to(device, non_blocking=True)
    return Encoding(made[source], saliency[source], fresh[of])


class TemporalReuse:
    """Takes a clip's temporal steps in order, and holds the cell last encoded at each place.

    `threshold`: mean absolute difference of normalised pixels (1 is about 68 of 255 levels) up to which a cell counts
    as unchanged; None: no cell does. `side`: cells a side of a window.
    """

    def __init__(self, threshold: float | None, side: int = 1) -> None:
        self._threshold, self._side = threshold, side
        self._last: Tensor | None = None  # (N, 4 * 1176) of the N cells of a step

    def changed(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The cells of patches (P, 1176) in a grid (T, H, W) that must be encoded: (T, N) bool."""
        steps, cells = grid[0], grid[1] * grid[2] // MERGE**2
        changed = torch.ones(steps, cells, dtype=torch.bool)
        if self._threshold is None:
            return changed
        of = windows(grid[1] // MERGE, grid[2] // MERGE, self._side)  # (N,)
        for step, new in zip(patches.view(steps, cells, -1), changed, strict=True):
            if self._last is None:
                self._last = step.clone()
                continue
            differs = (step - self._last).abs_().mean(1) > self._threshold
            new.copy_(torch.isin(of, of[differs]))
            self._last[new] = step[new]
        return changed


def sources(new: Tensor) -> Tensor:
    """For each cell of (T, N) bool, the row that holds its features: (T, N) int64.

    The table holds the features last encoded at the N places before these steps, then those of the new cells in order.
    """
    rows = new.shape[1] + new.flatten().cumsum(0).view(new.shape) - 1  # (T, N)
    return torch.where(new, rows, torch.arange(new.shape[1])).cummax(0).values


def write(into: Tensor, places: Tensor, parts: list[Tensor | None]) -> None:
    """Write parts, one after the other, over the rows `places` of `into`; memory never holds the stream twice."""
    if made := [part for part in parts if part is not None]:
        whole = made[0] if len(made) == 1 else torch.cat(made)
        into.index_copy_(0, places, whole.to(into, non_blocking=True))
