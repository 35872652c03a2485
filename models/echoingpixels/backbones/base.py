"""What the rest of the library may ask of an audio-visual LLM. Knows no model by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..inputs.patches import Resolution
from ..inputs.positions import Layout
from ..inputs.prepare import Inputs, Media, Tokenizer
from ..inputs.stream import Stream
from ..options import Encode


@dataclass(frozen=True)
class Features:
    """What the towers make of one Media: token features in the decoder's width."""

    video: Tensor | None  # (Nv, D); an image's tokens too
    audio: Tensor | None  # (Na, D)
    seen: Tensor | None = None  # (Nv,) bool, False where a token stands in that was encoded before; None for none
    heard: Tensor | None = None  # (Na,) bool, likewise
    there: Tensor | None = None  # (Nv,) bool, which video tokens there are; None for all

    def anew(self, image: bool = False) -> dict[str, int]:
        """Tokens that were encoded, of those kinds of which some were not."""
        masks = {"image" if image else "video": self.seen, "audio": self.heard}
        return {kind: int(mask.sum()) for kind, mask in masks.items() if mask is not None}


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor | None]:
    """Features (N, D) of parts of a clip, and which were made anew (N,), None if all; of each part both are given."""
    fresh = torch.cat([new for _, new in parts])
    return torch.cat([made for made, _ in parts]), None if bool(fresh.all()) else fresh


@dataclass(frozen=True)
class Shape:
    """The decoder's sizes, for budgets and FLOPs."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    vocab: int


@dataclass(frozen=True)
class VisionShape:
    """The vision tower's sizes, and how many patches it takes at once."""

    width: int
    head_size: int
    mlp: int
    at_once: int  # patches; whole temporal steps, at least one


@dataclass(frozen=True)
class AudioShape:
    """The audio tower's sizes, and how many mel frames it takes at once; two of them are one place in its layers."""

    width: int
    mlp: int
    at_once: int  # mel frames


class Sight(Protocol):
    """Sees a clip's temporal steps in order, part by part."""

    def see(self, patches: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """The features (Nv, D) of patches (P, 1176) in whole steps, and which were made anew: (Nv,) bool."""


class Backbone(Protocol):
    """An audio-visual LLM that answers from a stream of embeddings."""

    name: str
    tokenizer: Tokenizer
    layout: Layout
    shape: Shape
    stop_ids: frozenset[int]
    resolution: Resolution
    max_positions: int  # that its decoder was made for
    world: str | None  # the only clips it was trained on, by the beginning of their comment; None for any
    changed_by: str  # the sieve whose rotary split or LoRA the decoder has in place of its own; "" for none
    how: Encode

    @property
    def vision(self) -> VisionShape:
        """The vision tower's sizes."""

    @property
    def hearing(self) -> AudioShape:
        """The audio tower's sizes."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are not quantized, and of everything computed from them."""

    @property
    def device(self) -> torch.device:
        """Where the decoder is."""

    def parameters(self) -> Iterator[Tensor]:
        """All weights."""

    def tower_flops(self, media: Media, features: Features | None = None) -> float:
        """Floating-point operations of encode(media), from shapes: of all of it, or of what it made anew."""

    def encode(self, media: Media) -> Features:
        """Run both towers over one clip, in bounded chunks."""

    def steps_at_once(self, rows: int, columns: int) -> int:
        """Temporal steps of so many patches that are seen at once."""

    @property
    def window(self) -> int:
        """Cells a side of a window of the vision tower's attention."""

    def see_cells(self, patches: Tensor, grid: tuple[int, int, int], cells: Tensor) -> Tensor:
        """The features (K, D) of the K cells (Nv,) bool of patches (P, 1176), of which the others are not seen."""

    def mel_cuts(self, frames: int) -> list[tuple[int, int]]:
        """Where so many mel frames are cut to be heard: first and last of each part."""

    def sight(self) -> Sight:
        """To see one clip's temporal steps in order, as many at once as `steps_at_once` says."""

    def hear(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """The features (Na, D) of one part of `mel_cuts`, log-mel (128, M), and which were made anew: (Na,) bool."""

    def embed(self, inputs: Inputs, features: tuple[Features, ...]) -> Stream:
        """Embed a prompt and write the towers' features over its placeholders."""

    def first_layers(self, n: int, causal: bool = False) -> nn.ModuleList:
        """Copies of the decoder's first n layers, never quantized; bidirectional unless `causal`."""

    def run_layers(self, layers: nn.ModuleList, embeds: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Run such layers over embeds (B, L, D) at positions (3, B, L); mask (B, L) is False for hidden keys."""

    def set_sections(self, sections: list[int], by: str = "") -> None:
        """Split the rotary channel pairs: three numbers for M-RoPE, four [T, H, W, T] for Sync-RoPE.

        `by`: the sieve that wants another split than the decoder's own.
        """

    def hidden(self, stream: Stream, cache: Any = None, attention: Tensor | None = None) -> Tensor:
        """Run the decoder over a stream: normalised hidden states (B, L, D); fills the KV cache if given.

        `attention` (B, 1, L, L) bool says who sees whom, in place of the causal mask.
        """

    def attention_of(self, stream: Stream, tokens: Tensor, layers: int) -> Iterator[Iterator[Tensor]]:
        """For each of the first `layers`, blocks of the attention weights of `tokens` (B, L) bool to all tokens.

        A block is float32 (B, H, K, L) with a bounded K, and 0 where a row has fewer tokens.
        """

    def new_cache(self, tokens: int | None = None) -> Any:
        """An empty KV cache: one that grows and can be shortened, or one with room for so many tokens."""

    def shorten(self, cache: Any, tokens: int) -> None:
        """Take the last tokens out of a KV cache that grows."""

    def joined_cache(self, caches: list[Any], order: Tensor) -> Any:
        """One KV cache that grows of all rows (B,) of `caches`, left-padded, in `order`; empties those."""

    def decode(
        self, token: Tensor, position: Tensor, mask: Tensor | None, cache: Any, compiled: bool = False
    ) -> Tensor:
        """One cached step: token (B, N), position (B, N), mask (B, so far + N) → logits (B, N, V).

        `mask` None: no row is padded; a cache with room needs one. `compiled`: as one program, for a cache with room.
        ModelError where that cannot be made.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) → logits (..., V)."""
