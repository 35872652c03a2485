"""A model with its real sizes and random weights, made straight in its own type; its towers stay empty.

Knows nothing about what is measured.
"""

from __future__ import annotations

import torch
from torch import nn

from echoingpixels.model import EchoingPixels
from echoingpixels.options import LoadOptions
from echoingpixels.outline import outline
from echoingpixels.positions import AUDIO, TEXT, VIDEO
from echoingpixels.sieve import Sieve, SieveOptions
from echoingpixels.stream import Stream

SPREAD = 0.02  # of the weights, as such models are initialised
WORDS, CELLS, HEARD = 48, 112, 50  # text tokens of a prompt; video and audio tokens a chunk of 2 s, at 224 x 392, 2 fps


def random_stack(name: str, sieve: SieveOptions | None = None) -> EchoingPixels:
    """The text stack of a known model with random weights on the CPU, and a sieve of its first layers."""
    drawn = outline(name, LoadOptions(device="cpu")).model
    text, thinker = drawn.backbone.text, drawn.backbone.thinker  # type: ignore[attr-defined]
    for module in (text, thinker.lm_head):
        module.to_empty(device="cpu")
        fill(module)
    text.rotary_emb = type(text.rotary_emb)(text.config)  # its frequencies are no weights
    return EchoingPixels(drawn.backbone, Sieve(drawn.backbone, sieve or SieveOptions(4, "extractive")).to(text.dtype))


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
