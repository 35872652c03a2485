"""The protocol of an audio-visual LLM, as the rest of the library uses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..inputs.descent import Descent, Drop
from ..inputs.patches import Resolution
from ..inputs.positions import IMAGE, VIDEO, Layout
from ..inputs.prepare import Inputs, Media
from ..inputs.prompt import Tokenizer
from ..inputs.token_stream import TokenStream
from ..options import Reuse
from ..options.encoder_keep import EncoderKeep
from ..report import TokenCounts

if TYPE_CHECKING:
    from .fixed_cache import FixedCaches


@dataclass(frozen=True)
class Encoding:
    """An encoder's features of a part of a clip, in the decoder's width; undefined for tokens that it dropped."""

    features: Tensor  # (N, D)
    saliency: Tensor  # (N,) float32, attention received in the encoder's last layer; 1 on average in a window
    new: Tensor  # (N,) bool, False where earlier features are reused
    kept: Tensor | None = None  # (N,) bool, False where the encoder dropped the token; None: it kept all


@dataclass(frozen=True)
class Features:
    """The encoders' features of one clip, in the decoder's width. The vision encoder keeps K of its Nv tokens."""

    video: Tensor | None  # (K, D); an image's tokens too
    audio: Tensor | None  # (Na, D)
    new_video: Tensor | None = None  # (Nv,) bool, False where an earlier window's features are reused; None: all new
    new_audio: Tensor | None = None  # (Na,) bool, the same
    video_saliency: Tensor | None = None  # (K,) float32, attention received in the encoder's last layer
    audio_saliency: Tensor | None = None  # (Na,) float32, the same
    cells: Tensor | None = None  # (K,) int64 on the CPU: numbers of the kept video tokens, ascending; None: all

    @classmethod
    def of(cls, video: Sequence[Encoding], audio: Sequence[Encoding]) -> Features:
        """Features of a clip from the parts of its video and audio, in order.

        The host waits for the device once where the vision encoder drops tokens.
        """
        made = cls(
            *(_joined([part.features for part in parts]) for parts in (video, audio)),
            *(_some_reused([part.new for part in parts]) for parts in (video, audio)),
            *(_joined([part.saliency for part in parts]) for parts in (video, audio)),
        )
        kept = _joined([part.kept for part in video if part.kept is not None])
        return made if kept is None else made._only(kept.cpu().nonzero()[:, 0])

    def _only(self, cells: Tensor) -> Features:
        """The video tokens of those numbers (K,)."""
        assert self.video is not None and self.video_saliency is not None
        if len(cells) == len(self.video):
            return self
        index = cells.to(self.video.device, non_blocking=True)
        return replace(self, video=self.video[index], video_saliency=self.video_saliency[index], cells=cells)

    @property
    def has_saliency(self) -> bool:
        """Whether all tokens have saliency; features that were not made by `of` may have none."""
        pairs = (self.video, self.video_saliency), (self.audio, self.audio_saliency)
        return all(saliency is not None for features, saliency in pairs if features is not None)

    def encoded(self, image: bool) -> TokenCounts:
        """Numbers of tokens that the encoders computed to the end; `image`: the video features are of a still image."""
        new = self.new_video if self.new_video is None or self.cells is None else self.new_video[self.cells]
        video, audio = _count(self.video, new), _count(self.audio, self.new_audio)
        return TokenCounts(0 if image else video, audio, video if image else 0)


def present(inputs: Inputs, features: Sequence[Features]) -> Inputs:
    """A prompt without the video tokens that its clips' features lack."""
    if all(one.cells is None for one in features):
        return inputs
    here = torch.ones(inputs.kind.shape[1], dtype=torch.bool)
    places = torch.isin(inputs.kind[0], torch.tensor([VIDEO, IMAGE])).nonzero()[:, 0]
    first = 0
    for media, one in zip(inputs.media, features, strict=True):
        tokens = media.span.video_tokens
        if one.cells is not None:
            own = places[first : first + tokens]
            here[own] = False
            here[own[one.cells]] = True
        first += tokens
    return inputs.only(here.nonzero()[:, 0])


def _count(features: Tensor | None, new: Tensor | None) -> int:
    return 0 if features is None else len(features) if new is None else int(new.sum())


def _joined(parts: list[Tensor]) -> Tensor | None:
    return torch.cat(parts) if parts else None


def _some_reused(parts: list[Tensor]) -> Tensor | None:
    """The mask of new tokens (N,), or None if all are new."""
    new = _joined(parts)
    return None if new is None or bool(new.all()) else new


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
    """The vision encoder's sizes."""

    width: int
    head_size: int
    mlp: int


@dataclass(frozen=True)
class AudioShape:
    """The audio encoder's sizes. Two mel frames are one place in its layers."""

    width: int
    mlp: int


class VisionEncoder(Protocol):
    """Encodes a clip's temporal steps in order, part by part."""

    def encode(self, patches: Tensor, rows: int, columns: int) -> Encoding:
        """Features of Nv tokens from patches (P, 1176) in whole steps."""


class Backbone(Protocol):
    """An audio-visual LLM that answers from a stream of embeddings."""

    name: str
    tokenizer: Tokenizer
    layout: Layout
    shape: Shape
    stop_ids: frozenset[int]
    resolution: Resolution
    max_positions: int  # trained context length of its decoder
    world: str | None  # prefix of the `comment` tag of the only clips that it was trained on; None for any clip
    changed_by: str  # the sieve whose rotary split or LoRA replaces the decoder's own; "" for none
    reuse: Reuse  # threshold below which the encoders reuse the features of an unchanged window; None: off
    encoder_keep: EncoderKeep | None  # cells that the vision encoder keeps inside; None: all
    fixed_caches: FixedCaches  # KV caches of fixed length

    @property
    def vision_shape(self) -> VisionShape:
        """The vision encoder's sizes."""

    @property
    def audio_shape(self) -> AudioShape:
        """The audio encoder's sizes."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights that are not quantized, and of the features."""

    @property
    def device(self) -> torch.device:
        """The decoder's device."""

    def parameters(self) -> Iterator[Tensor]:
        """All weights."""

    def encoder_flops(self, media: Media, features: Features | None = None) -> float:
        """Floating-point operations of encoding a clip, from shapes: all of it, or the new tokens of `features`."""

    def steps_at_once(self, rows: int, columns: int) -> int:
        """Temporal steps of `rows` x `columns` patches that are encoded at once."""

    def vision_encoder(self) -> VisionEncoder:
        """A new vision encoder for one clip."""

    def mel_cuts(self, frames: int) -> list[tuple[int, int]]:
        """First and last mel frame of each part of `frames` that is encoded at once."""

    def encode_audio(self, mel: Tensor) -> Encoding:
        """Features of Na tokens from one part of `mel_cuts`, log-mel (128, M)."""

    def embed(self, inputs: Inputs, features: tuple[Features, ...]) -> TokenStream:
        """Embed a prompt (1, L) and write the encoders' features over its placeholders."""

    def first_layers(self, n: int, causal: bool = False) -> nn.ModuleList:
        """Copies of the decoder's first n layers, never quantized; bidirectional unless `causal`."""

    def run_layers(self, layers: nn.ModuleList, embeds: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Run such layers over embeds (B, L, D) at positions (3, B, L); mask (B, L), if any, hides keys where False."""

    def set_sections(self, sections: list[int], by: str = "") -> None:
        """Split the rotary channel pairs: three numbers for M-RoPE, four [T, H, W, T] for Sync-RoPE.

        `by`: the sieve that requires a split other than the decoder's own.
        """

    def hidden(self, stream: TokenStream, cache: Any = None, attention: Tensor | None = None) -> Tensor:
        """Run the decoder over a stream: normalised hidden states (B, L, D); fills the KV cache if given.

        `attention` (B, 1, L, L), bool or added to the logits, replaces the causal mask. Of places that the cache holds
        already there is no result.
        """

    def attention_of(self, stream: TokenStream, tokens: Tensor, layers: int) -> Iterator[Iterator[Tensor]]:
        """For each of the first `layers`, blocks of the attention weights of `tokens` (B, L) bool to all tokens.

        A block is float32 (B, H, K, L) with a bounded K, and 0 where a row has fewer tokens.
        """

    def contributions(self, stream: TokenStream, cache: Any, answers: Sequence[Sequence[int]]) -> Tensor | None:
        """First-order effect of each token's values on the log-odds of the answers: float32 (B, L).

        `cache`: as decoding from `stream` has left it; `answers`: token ids of each row without stop tokens. 0 for text
        after the clip and padding. None where there are no gradients.
        """

    def new_cache(self) -> Any:
        """An empty KV cache that grows."""

    def descend(self, stream: TokenStream, cache: Any) -> Descent:
        """Run the decoder over a stream with drops: normalised hidden states (B, 1, D) of the last place.

        Fills a KV cache that grows: the entries of each layer are those of the tokens that it read.
        """

    def uneven_cache(self, cache: Any, read: Tensor, drops: Sequence[Drop]) -> Any:
        """The cache that `descend` has filled, for `decode`, which then takes no mask. `read` (B, L) as returned."""

    def joined_cache(self, caches: Sequence[Any], order: Tensor, empty: bool = True) -> Any:
        """One KV cache that grows of all rows (B,) of `caches`, left-padded, in `order`; empties those or not."""

    def cut_cache(self, cache: Any, row: int, first: int, last: int) -> Any:
        """A KV cache that grows, of one row of `cache`: a copy of its places from `first` to before `last`."""

    def decode(
        self, token: Tensor, position: Tensor, mask: Tensor | None, cache: Any, compiled: bool = False
    ) -> Tensor:
        """One cached step: token (B, 1), position (B, 1), mask (B, length so far + 1) → logits (B, 1, V).

        `mask` None: no row is padded, or the cache is uneven; a cache of fixed length needs one. `compiled`: as one
        program, for a cache of fixed length; ModelError where it cannot be compiled.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) → logits (..., V)."""
