"""Qwen2.5-Omni's thinker behind the Backbone protocol.

Nothing of transformers is copied, patched or subclassed: encoders, decoder layers and masks are called as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..inputs.descent import Descent, Drop
from ..inputs.patches import Resolution
from ..inputs.positions import AUDIO, IMAGE, VIDEO
from ..inputs.prepare import Inputs, Media
from ..inputs.prompt import Tokenizer
from ..inputs.row_size import RowSize
from ..inputs.token_stream import TokenStream
from ..options import Reuse
from ..options.encoder_keep import EncoderKeep
from .base import AudioShape, Encoding, Features, VisionShape, present
from .decoder import InParts, Uneven, additive, causal_mask, checkpointed, cut, join, kv_name, run_with_drops
from .encoders import VisionEncoder, encode_audio, write
from .fixed_cache import FixedCache, FixedCaches
from .pruning import prune_steps
from .sizes import audio_flops, audio_shape_of, layout_of, shape_of, stop_ids_of, vision_flops, vision_shape_of

PATCHES_AT_ONCE = 4096  # bounds the vision encoder's activations; whole temporal steps: nothing attends across a cut
MEL_CHUNKS_AT_ONCE = 64  # of the audio encoder's own 2 s windows


class QwenOmni:
    """The thinker of Qwen2.5-Omni: two encoders, a decoder and an output head."""

    def __init__(
        self,
        thinker: Any,
        tokenizer: Tokenizer,
        name: str,
        resolution: Resolution,
        reuse: Reuse = None,
        encoder_keep: EncoderKeep | None = None,
    ) -> None:
        self.thinker = thinker
        self.tokenizer = tokenizer
        self.name = name
        self.resolution = resolution
        self.max_positions: int = thinker.config.text_config.max_position_embeddings
        self.world: str | None = getattr(thinker.config, "world", None)
        self.reuse, self.encoder_keep = reuse, encoder_keep
        prune_steps(thinker.model.visual, encoder_keep)  # OptionError for one that it cannot do
        self.text = thinker.model.language_model
        self.changed_by, self.checkpointing = "", False
        self._kv = kv_name()  # found here: a compiled step cannot find it
        if self.device.type == "cuda":
            from .kernels import choose_kernels

            choose_kernels(thinker, self.device, self.dtype)
        self.layout, self.shape = layout_of(thinker.config), shape_of(thinker.config.text_config)
        self.fixed_caches = FixedCaches(self.text.config, self.shape, self._step)
        self.stop_ids = stop_ids_of(thinker.generation_config.eos_token_id, tokenizer)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.text.embed_tokens.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.text.embed_tokens.weight.dtype
        return dtype

    def parameters(self) -> Iterator[Tensor]:
        """All weights."""
        weights: Iterator[Tensor] = self.thinker.parameters()
        return weights

    @property
    def vision_shape(self) -> VisionShape:
        """The vision encoder's sizes."""
        return vision_shape_of(self.thinker.config.vision_config)

    @property
    def audio_shape(self) -> AudioShape:
        """The audio encoder's sizes."""
        return audio_shape_of(self.thinker.config.audio_config)

    def encoder_flops(self, media: Media, features: Features | None = None) -> float:
        """Floating-point operations of encoding a clip, as it is run: of all of it, or of `features`' new tokens."""
        model, total = self.thinker.model, 0.0
        if media.grid is not None:
            new = None if features is None else features.new_video
            total += vision_flops(model.visual, media.grid, new, prune_steps(model.visual, self.encoder_keep))
        if media.mel is not None:
            new = None if features is None else features.new_audio
            total += audio_flops(model.audio_tower, media.mel.shape[1], new)
        return total

    def steps_at_once(self, rows: int, columns: int) -> int:
        """Temporal steps of `rows` x `columns` patches that are encoded at once."""
        return max(1, PATCHES_AT_ONCE // (rows * columns))

    def vision_encoder(self) -> VisionEncoder:
        """A new vision encoder for one clip: its temporal steps come in order, `steps_at_once` of them at a time."""
        return VisionEncoder(self.thinker.model.visual, self.reuse, self.encoder_keep)

    def mel_cuts(self, frames: int) -> list[tuple[int, int]]:
        """First and last mel frame of each part of `frames` that is encoded at once: whole windows of the encoder."""
        window = 2 * self.thinker.model.audio_tower.n_window
        starts = list(range(0, frames, MEL_CHUNKS_AT_ONCE * window))
        if len(starts) > 1 and frames - starts[-1] < window:  # a tail too short for a token joins its neighbour
            starts.pop()
        return list(zip(starts, [*starts[1:], frames], strict=True))

    def encode_audio(self, mel: Tensor) -> Encoding:
        """Features of Na tokens from one part of `mel_cuts`, log-mel (128, M)."""
        return encode_audio(self.thinker.model.audio_tower, mel, silence_once=self.reuse is not None)

    def embed(self, inputs: Inputs, features: tuple[Features, ...]) -> TokenStream:
        """Embed a prompt (1, L) and write the encoders' features over its placeholders, without those they dropped."""
        free: Any = {"device": self.device, "non_blocking": True}  # the host does not wait
        whole, inputs = inputs, present(inputs, features)
        ids = inputs.input_ids.to(**free)
        embeds = self.text.embed_tokens(ids)
        saliency = torch.zeros(ids.shape, device=self.device) if all(f.has_saliency for f in features) else None
        for kinds, name in (((VIDEO, IMAGE), "video"), ((AUDIO,), "audio")):
            places = torch.isin(inputs.kind[0], torch.tensor(kinds)).nonzero()[:, 0].to(**free)  # found on the CPU
            write(embeds[0], places, [getattr(f, name) for f in features])
            if saliency is not None:
                write(saliency[0], places, [getattr(f, f"{name}_saliency") for f in features])
        return TokenStream(
            embeds=embeds,
            positions=inputs.positions.to(**free),
            kind=inputs.kind.to(**free),
            time=inputs.time.to(**free),
            cell=inputs.cell.to(**free),
            mask=torch.ones_like(ids, dtype=torch.bool),
            next_position=(whole.positions.amax(dim=(0, 2)) + 1).to(**free),
            before=(whole.counts,),
            absent=None if inputs is whole else (whole.kind.shape[1] - inputs.kind.shape[1],),
            sizes=(RowSize(inputs.counts.pool, inputs.counts.text),),
            labels=None if inputs.labels is None else inputs.labels.to(**free),
            question=None if inputs.question is None else inputs.question.to(**free),
            saliency=saliency,
        )

    def first_layers(self, n: int, causal: bool = False) -> nn.ModuleList:
        """Copies of the decoder's first n layers, never quantized; bidirectional unless `causal`.

        The layers of a quantized decoder are empty, to be filled from a file: a sieve's own, or the checkpoint.
        """
        quantized = getattr(self.thinker, "is_quantized", False)
        layers = nn.ModuleList()
        for i, source in enumerate(self.text.layers[:n]):
            with torch.device("meta"):  # as float32, and filled with noise, it would be twice as large for a while
                layer = type(source)(self.text.config, i).to(self.dtype)
            layer.to_empty(device=self.device)
            if not quantized:
                layer.load_state_dict(source.state_dict())
            layer.mlp, layer.self_attn.is_causal = InParts(layer.mlp), causal
            if self.checkpointing:
                layer._gradient_checkpointing_func = source._gradient_checkpointing_func
            layers.append(layer)
        return layers

    def run_layers(
        self, layers: nn.ModuleList, embeds: Tensor, positions: Tensor, mask: Tensor | None, cache: Any = None
    ) -> Tensor:
        """Run layers of `first_layers` over embeds (B, L, D) at positions (3, B, L); mask (B, L), if any, hides keys.

        With a KV cache, layers of the decoder itself, which fill it.
        """
        from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

        rotary = self.text.rotary_emb(embeds, positions)
        what = {"config": self.text.config, "inputs_embeds": embeds}
        first: Any = next(iter(layers), None)
        if first is not None and first.self_attn.is_causal:
            keys = None if mask is None else causal_mask(mask, 0, self.dtype)
            attention = create_causal_mask(**what, attention_mask=keys, **{self._kv: None})
        else:
            keys = None if mask is None else additive(mask).to(self.dtype)
            attention = create_bidirectional_mask(**what, attention_mask=keys)
        with checkpointed(layers, self.checkpointing):
            for layer in layers:
                embeds = layer(embeds, attention_mask=attention, position_embeddings=rotary, **{self._kv: cache})
        return embeds

    def attention_of(self, stream: TokenStream, tokens: Tensor, layers: int) -> Iterator[Iterator[Tensor]]:
        """For each of the first `layers`, blocks of the attention weights of `tokens` (B, L) bool to all tokens.

        A block is float32 (B, H, K, L) with a bounded K, and 0 where a row has fewer tokens.
        """
        from .attention import attention_of

        return attention_of(self.text, self.run_layers, stream, tokens, layers)

    def contributions(self, stream: TokenStream, cache: Any, answers: Sequence[Sequence[int]]) -> Tensor | None:
        """First-order effect (B, L) of each token's values in the KV cache on the log-odds of the `answers` decoded."""
        from .contributions import contributions

        return contributions(self.text, self.logits, stream, cache, answers)

    def train(self, checkpointing: bool = False) -> None:
        """Make the decoder ready for backward passes; with `checkpointing` its layers, and those of `first_layers` from
        now on, keep only their inputs and run again in the backward pass.

        Four-bit weights on a CPU would be packed for good by a run in evaluation mode, and then give no gradient.
        """
        self.text.train()
        self.checkpointing = checkpointing
        if checkpointing:
            self.text.activation_checkpointing_enable({"use_reentrant": False})
            self.text.disable_input_require_grads()  # which reentrant checkpoints alone need
            for part in (self.text, *self.text.layers):  # outside of `checkpointed`: they would drop the KV cache,
                part.gradient_checkpointing = False  # and PEFT would have embeddings ask for a gradient

    def set_sections(self, sections: list[int], by: str = "") -> None:
        """Split the rotary channel pairs; transformers reads entry i from axis i % 3, so four give [T, H, W, T]."""
        if by and list(sections) != list(self.text.rotary_emb.mrope_section):
            self.changed_by = by
        self.text.rotary_emb.mrope_section = list(sections)

    def new_cache(self) -> Any:
        """An empty KV cache that grows."""
        from transformers import DynamicCache

        return DynamicCache(config=self.text.config)

    def hidden(self, stream: TokenStream, cache: Any = None, attention: Tensor | None = None) -> Tensor:
        """Run the decoder over a stream: normalised hidden states (B, L, D); fills the KV cache if given.

        `attention` (B, 1, L, L), bool or added to the logits, replaces the causal mask. Of places that the cache holds
        already there is no result.
        """
        known = 0 if cache is None else int(cache.get_seq_length())
        if attention is None and (known or stream.key_mask is not None):
            attention = causal_mask(stream.mask, known, self.dtype)
        with checkpointed(self.text.layers, self.checkpointing and cache is None):
            out = self.text(
                inputs_embeds=stream.embeds[:, known:],
                position_ids=stream.positions[:, :, known:],
                attention_mask=None if attention is None else {"full_attention": attention},
                **{self._kv: cache},
                use_cache=cache is not None,
            )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def descend(self, stream: TokenStream, cache: Any) -> Descent:
        """Run the decoder over a stream with drops: normalised hidden states (B, 1, D) of the last place.

        Fills a KV cache that grows: the entries of each layer are those of the tokens that it read.
        """
        return run_with_drops(self.text, self.run_layers, stream, cache)

    def uneven_cache(self, cache: Any, read: Tensor, drops: Sequence[Drop]) -> Any:
        """The cache that `descend` has filled, for `decode`, which then takes no mask. `read` (B, L) as returned."""
        return Uneven.of(cache, read, [drop.layer for drop in drops])

    def joined_cache(self, caches: Sequence[Any], order: Tensor, empty: bool = True) -> Any:
        """One KV cache that grows of all rows (B,) of `caches`, left-padded, in `order`; empties those or not."""
        return join(self.new_cache(), caches, order, empty)

    def cut_cache(self, cache: Any, row: int, first: int, last: int) -> Any:
        """A KV cache that grows, of one row of `cache`: a copy of its places from `first` to before `last`."""
        return cut(self.new_cache(), cache, row, first, last)

    def decode(
        self, token: Tensor, position: Tensor, mask: Tensor | None, cache: Any, compiled: bool = False
    ) -> Tensor:
        """One cached step: token (B, 1), position (B, 1), mask (B, length so far + 1) → logits (B, 1, V).

        `mask` None: no row is padded; a cache of fixed length needs one. `compiled`: as one program, for a cache of
        fixed length; ModelError where it cannot be compiled.
        """
        if isinstance(cache, Uneven):
            return self.logits(cache.step(self.text, token, position))
        if isinstance(cache, FixedCache):
            assert mask is not None, "places that are not written yet are hidden"
            return self.fixed_caches.step(cache, token, position, mask, compiled)
        # A mask is made here: transformers would wait for the device at every step to decide on it.
        return self._step(token, position, None if mask is None else additive(mask).to(self.dtype), cache)

    def _step(self, token: Tensor, position: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        out = self.text(
            input_ids=token,
            position_ids=position.expand(3, -1, -1),
            attention_mask=None if mask is None else {"full_attention": mask},
            **{self._kv: cache},
            use_cache=True,
        )
        return self.logits(out.last_hidden_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) → logits (..., V)."""
        logits: Tensor = self.thinker.lm_head(hidden)
        return logits
