"""A small thinker with random weights and a byte-level tokenizer, for tests of properties. Nothing here is trained."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from echoingpixels.backbones.base import Encoding, Features
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.patches import Resolution
from echoingpixels.inputs.positions import Span, place
from echoingpixels.inputs.prepare import Inputs, Media, as_inputs, prepare_media
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.media.clip import Clip, Source
from echoingpixels.model import EchoingPixels
from echoingpixels.reducers.cs2 import Sieve, SieveOptions

MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
    *("<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>"),
)
BYTES = 256
RESOLUTION = Resolution.plain(84 * 84, 28 * 28)
WIDTH, HEADS, PAIRS = 64, 4, 8  # head size 16
PLAIN = [2, 3, 3]  # the plain M-RoPE split of those pairs


@cache
def tokenizer() -> Any:
    """Bytes, and Qwen2.5-Omni's marks after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, additional_special_tokens=list(MARKS))


def mark(name: str) -> int:
    """The id of a mark."""
    return BYTES + MARKS.index(name)


def config(
    positions_per_s: int = 25, seconds_per_chunk: int = 2, eps: float = 1e-6, mlp: int = 96
) -> Qwen2_5OmniThinkerConfig:
    """A thinker of 4 decoder layers and two encoders of 2."""
    return Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": BYTES + len(MARKS) + 1,
            "hidden_size": WIDTH,
            "intermediate_size": mlp,
            "num_hidden_layers": 4,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": eps,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default", "mrope_section": PLAIN},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_heads": 4,
            "window_size": 56,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [1],
        },
        audio_config={
            "num_mel_bins": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "n_window": 100,
            "output_dim": WIDTH,
        },
        audio_token_index=mark("<|AUDIO|>"),
        image_token_index=mark("<|IMAGE|>"),
        video_token_index=mark("<|VIDEO|>"),
        audio_start_token_id=mark("<|audio_bos|>"),
        audio_end_token_id=mark("<|audio_eos|>"),
        vision_start_token_id=mark("<|vision_bos|>"),
        vision_end_token_id=mark("<|vision_eos|>"),
        position_id_per_seconds=positions_per_s,
        seconds_per_chunk=seconds_per_chunk,
    )


@cache
def backbone(attention: str = "sdpa", positions_per_s: int = 25, seconds_per_chunk: int = 2, mlp: int = 96) -> QwenOmni:
    """The random thinker, always the same; tests that change it set it back. NF4 on a CPU needs `mlp` % 64 = 0."""
    torch.manual_seed(0)
    settings = config(positions_per_s, seconds_per_chunk, mlp=mlp)
    settings._attn_implementation = attention
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(settings).float().eval()
    with torch.no_grad():
        for name, weight in thinker.named_parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.15)
            elif "norm" in name or "ln_" in name:
                nn.init.uniform_(weight, 0.7, 1.3)
    return QwenOmni(thinker, tokenizer(), "random", RESOLUTION)


def sieve(on: QwenOmni, **options: Any) -> Sieve:
    """A sieve with a random score head on a random backbone; options as in SieveOptions, 2 layers by default."""
    torch.manual_seed(1)
    made = Sieve(on, SieveOptions(**{"layers": 2, **options})).eval()
    with torch.no_grad():
        for linear in (made.compressor.score_head[0], made.compressor.score_head[2]):
            nn.init.normal_(linear.weight, std=0.2)
        for parameter in made.layers.parameters():  # no longer the decoder's own
            parameter.mul_(1.1)
    return made


def model(**options: Any) -> EchoingPixels:
    """The random thinker with a sieve of its own; options as in SieveOptions."""
    on = backbone()
    return EchoingPixels(on, sieve(on, **options))


def clip(seconds: float = 3.0, sound: bool = True, fps: float = 2.0, seed: int = 0) -> Clip:
    """A noisy clip at a constant rate."""
    random = np.random.default_rng(seed)
    n = int(seconds * fps)
    frames = random.integers(0, 256, (n, 56, 84, 3), dtype=np.uint8)
    audio = random.normal(0, 0.1, int(seconds * 16_000)).astype(np.float32) if sound else None
    return Clip(frames, np.arange(n) / fps, audio, seconds, Source("noise", "video", "none", seconds))


def text(n: int, seed: int = 0) -> list[int]:
    """n ids of plain text."""
    return np.random.default_rng(seed).integers(0, BYTES, n).tolist()


def prompt(on: QwenOmni, *pieces: list[int] | Media) -> Inputs:
    """A prompt of texts and media."""
    media = tuple(piece for piece in pieces if isinstance(piece, Media))
    spans: list[list[int] | Span] = [piece.span if isinstance(piece, Media) else piece for piece in pieces]
    return as_inputs(place(spans, on.layout), media)


def encode(on: QwenOmni, media: Media, gradients: bool = False) -> Features:
    """The features of a whole clip's patches and log-mel."""
    with torch.set_grad_enabled(gradients):
        return _encode(on, media)


def _encode(on: QwenOmni, media: Media) -> Features:
    video: list[Encoding] = []
    audio: list[Encoding] = []
    if media.patches is not None and media.grid is not None:
        _, rows, columns = media.grid
        parts = torch.split(media.patches, on.steps_at_once(rows, columns) * rows * columns)
        encoder = on.vision_encoder()
        video = [encoder.encode(part, rows, columns) for part in parts]
    if media.mel is not None:
        cuts = on.mel_cuts(media.mel.shape[1])
        audio = [on.encode_audio(media.mel[:, first:last]) for first, last in cuts]
    return Features.of(video, audio)


@torch.no_grad()
def embed(on: QwenOmni, inputs: Inputs) -> TokenStream:
    """A prompt's stream."""
    return on.embed(inputs, tuple(encode(on, media) for media in inputs.media))


def asked(model: EchoingPixels, clip: Clip, question: str) -> TokenStream:
    """The stream of a question about a clip."""
    return model.embed(model.encode(clip).prompt(question))


def stream(
    on: QwenOmni, seconds: float = 3.0, sound: bool = True, before: int = 5, after: int = 7, seed: int = 0
) -> TokenStream:
    """The stream of a clip between two texts."""
    media = prepare_media(clip(seconds, sound, seed=seed), on.resolution)
    return embed(on, prompt(on, text(before, seed), media, text(after, seed + 1)))


def text_stream(on: QwenOmni, n: int = 9, seed: int = 0) -> TokenStream:
    """The stream of a prompt without media."""
    return embed(on, prompt(on, text(n, seed)))


ANSWER = 3  # tokens of each answer in `answered`


def answered(on: QwenOmni) -> list[TokenStream]:
    """Prompts of unequal length, one without sound, the last tokens being the answer."""
    made = [stream(on, 2.0), stream(on, 4.0, seed=3), stream(on, 3.0, sound=False)]
    labels = [torch.full_like(row.kind, -100) for row in made]
    for each in labels:
        each[:, -ANSWER:] = 7
    return [replace(row, labels=each) for row, each in zip(made, labels, strict=True)]
