"""A model with its real sizes and random weights, made straight in its own type.

Knows nothing about what is measured.
"""

from __future__ import annotations

import torch
from torch import nn

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.positions import AUDIO, TEXT, VIDEO
from echoingpixels.inputs.stream import Stream
from echoingpixels.model import EchoingPixels
from echoingpixels.options import LoadOptions
from echoingpixels.planning.meta_model import Words, outline
from echoingpixels.reducers.cs2 import Sieve, SieveOptions

SPREAD = 0.02  # of the weights, as such models are initialised
WORDS, CELLS, HEARD = 48, 112, 50  # text tokens of a prompt; video and audio tokens a chunk of 2 s, at 224 x 392, 2 fps


def random_stack(name: str, sieve: SieveOptions | None = None) -> EchoingPixels:
    """The text stack of a known model with random weights on the CPU, and a sieve of its first layers; no towers."""
    drawn = outline(name, LoadOptions(device="cpu")).model
    assert isinstance(drawn.backbone, QwenOmni)
    text, thinker = drawn.backbone.text, drawn.backbone.thinker
    real(text, thinker.lm_head)
    text.rotary_emb = type(text.rotary_emb)(text.config)  # its frequencies are no weights
    return EchoingPixels(drawn.backbone, Sieve(drawn.backbone, sieve or SieveOptions(4, "extractive")).to(text.dtype))


def random_tower(name: str) -> EchoingPixels:
    """A known model without weights, but for its vision tower, which has random ones on the CPU."""
    drawn = outline(name, LoadOptions(device="cpu")).model
    assert isinstance(drawn.backbone, QwenOmni)
    _see(drawn.backbone)
    return drawn


def random_model(name: str, sieve: SieveOptions | None = None) -> EchoingPixels:
    """All of a known model with random weights on the CPU, a sieve with it, and a tokenizer that says nothing."""
    made = random_stack(name, sieve)
    assert isinstance(made.backbone, QwenOmni)
    _see(made.backbone)
    hearing = made.backbone.thinker.model.audio_tower
    real(hearing)
    there = hearing.positional_embedding
    hearing.positional_embedding = type(there)(there.length, there.channels, there.max_timescale)
    made.backbone.tokenizer = Mute()
    return made


class Mute(Words):
    """What random weights say is nothing to read."""

    def decode(self, ids: list[int]) -> str:
        return ""


def _see(backbone: QwenOmni) -> None:
    seeing = backbone.thinker.model.visual
    real(seeing)
    seeing.rotary_pos_emb = type(seeing.rotary_pos_emb)(seeing.config)  # its frequencies are no weights


def real(*modules: nn.Module) -> None:
    """Random weights in place of none, on the CPU."""
    for module in modules:
        fill(module.to_empty(device="cpu"))


def fill(module: nn.Module) -> None:
    """Random matrices, norms of 1 and biases of 0, in place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, SPREAD, generator=generator)
            else:
                parameter.fill_(0)
        for part in module.modules():
            if "Norm" in type(part).__name__:
                part.weight.fill_(1)  # type: ignore[operator]


def random_stream(model: EchoingPixels, tokens: int) -> Stream:
    """A prompt of `tokens` in all: chunks of picture and sound as of a real clip, then text; (1, L, D) embeddings."""
    chunk = torch.tensor([VIDEO] * 2 * CELLS + [AUDIO] * HEARD)
    media = tokens - WORDS
    kind = torch.cat([chunk.repeat(media // len(chunk) + 1)[:media], torch.full((WORDS,), TEXT)])[None]
    place = torch.arange(tokens)[None]
    generator = torch.Generator().manual_seed(1)
    width, dtype = model.backbone.shape.width, next(model.backbone.parameters()).dtype
    return Stream(
        embeds=torch.randn(1, tokens, width, generator=generator).to(dtype),
        positions=place.expand(3, 1, tokens),
        kind=kind,
        time=torch.where(kind == TEXT, torch.nan, place / len(chunk) * 2.0),
        cell=torch.where((kind == VIDEO)[..., None], place[..., None] % 14, -1).expand(1, tokens, 2),
        mask=torch.ones_like(kind, dtype=torch.bool),
        next_position=torch.tensor([tokens]),
    )
