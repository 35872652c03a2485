"""Facts from a Qwen2.5-Omni thinker's configuration: special tokens, stop tokens and sizes."""

from __future__ import annotations

from typing import Any

from ..inputs.positions import Layout
from ..inputs.prepare import Tokenizer
from .base import AudioShape, Shape, VisionShape

END_OF_TEXT = "<|endoftext|>"


def layout_of(config: Any) -> Layout:
    """The thinker's special tokens and its positions per second."""
    return Layout(
        video=config.video_token_id,
        audio=config.audio_token_id,
        image=config.image_token_id,
        vision_bos=config.vision_start_token_id,
        vision_eos=config.vision_end_token_id,
        audio_bos=config.audio_start_token_id,
        audio_eos=config.audio_end_token_id,
        positions_per_s=config.position_id_per_seconds,
        seconds_per_chunk=config.seconds_per_chunk,
    )


def shape_of(text: Any) -> Shape:
    """The decoder's sizes."""
    return Shape(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        mlp=text.intermediate_size,
        vocab=text.vocab_size,
    )


def stop_ids_of(eos: int | list[int] | None, tokenizer: Tokenizer) -> frozenset[int]:
    """The token ids that end an answer: the generation config's, the tokenizer's eos and pad, and `<|endoftext|>`.

    A published Qwen2.5-Omni names none in its thinker's generation config; Qwen's own list is 151645 and 151643.
    """
    named = [getattr(tokenizer, name, None) for name in ("eos_token_id", "pad_token_id")]
    ids = [*(eos if isinstance(eos, list) else [eos]), *named, tokenizer.get_added_vocab().get(END_OF_TEXT)]
    return frozenset(id for id in ids if id is not None)


def vision_shape_of(config: Any, at_once: int) -> VisionShape:
    """The vision encoder's sizes; it takes `at_once` patches at a time."""
    return VisionShape(config.hidden_size, config.hidden_size // config.num_heads, config.intermediate_size, at_once)


def audio_shape_of(config: Any, windows: int) -> AudioShape:
    """The audio encoder's sizes; it takes that number of its windows at a time."""
    return AudioShape(config.d_model, config.encoder_ffn_dim, windows * 2 * config.n_window)
