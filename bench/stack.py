"""Models of real sizes with random weights, made on their device and in their own dtype."""

from __future__ import annotations

import torch
from torch import nn

from echoingpixels.backbones.kernels import choose_kernels
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.inputs.positions import AUDIO, TEXT, VIDEO
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.model import EchoingPixels
from echoingpixels.options import LoadOptions
from echoingpixels.planning.meta_model import Words, outline
from echoingpixels.reducers.cs2 import Sieve, SieveOptions

SPREAD = 0.02  # of the weights, as such models are initialised
WORDS = 48  # text tokens of a prompt
CELLS, AUDIO_TOKENS = 112, 50  # video tokens of a step at 224 x 392, and audio tokens of a chunk of 2 s
ON_CPU = LoadOptions(device="cpu")


def random_stack(name: str, sieve: SieveOptions | None = None, options: LoadOptions = ON_CPU) -> EchoingPixels:
    """The decoder of a known model with random weights, and a sieve of its first layers; no encoders."""
    drawn = outline(name, options)
    on, device = drawn.model.backbone, drawn.device
    assert isinstance(on, QwenOmni)
    real(device, on.text, on.thinker.lm_head)
    on.text.rotary_emb = type(on.text.rotary_emb)(on.text.config).to(device)  # not among the weights
    return EchoingPixels(on, Sieve(on, sieve or SieveOptions(4, "extractive")).to(device, on.dtype))


def random_encoders(name: str) -> EchoingPixels:
    """A known model without weights, except the random ones of its encoders."""
    drawn = outline(name, ON_CPU).model
    assert isinstance(drawn.backbone, QwenOmni)
    _fill_encoders(drawn.backbone, torch.device("cpu"))
    return drawn


def random_model(name: str, sieve: SieveOptions | None = None, options: LoadOptions = ON_CPU) -> EchoingPixels:
    """A whole known model with random weights, a sieve, and a tokenizer that decodes to no text."""
    made = random_stack(name, sieve, options)
    on = made.backbone
    assert isinstance(on, QwenOmni)
    _fill_encoders(on, on.device)
    on.tokenizer = Mute()
    choose_kernels(on.thinker, on.device, on.dtype)
    return made


class Mute(Words):
    """A tokenizer whose text is empty: the tokens of random weights mean nothing."""

    def decode(self, ids: list[int]) -> str:
        return ""


def _fill_encoders(backbone: QwenOmni, device: torch.device) -> None:
    vision, audio = backbone.thinker.model.visual, backbone.thinker.model.audio_tower
    real(device, vision, audio)
    vision.rotary_pos_emb = type(vision.rotary_pos_emb)(vision.config).to(device)  # not among the weights
    places = audio.positional_embedding
    audio.positional_embedding = type(places)(places.length, places.channels, places.max_timescale).to(device)


def real(device: torch.device, *modules: nn.Module) -> None:
    """Give modules random weights on a device."""
    for module in modules:
        fill(module.to_empty(device=device), device)


def fill(module: nn.Module, device: torch.device) -> None:
    """Random matrices, norms of 1 and biases of 0, in place."""
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, SPREAD, generator=generator)
            else:
                parameter.fill_(0)
        for part in module.modules():
            if "Norm" in type(part).__name__:
                part.weight.fill_(1)  # type: ignore[operator]


def random_stream(model: EchoingPixels, tokens: int) -> TokenStream:
    """A prompt of `tokens` tokens: chunks of video and audio as of a real clip, then text; embeddings (1, L, D)."""
    chunk = torch.tensor([VIDEO] * 2 * CELLS + [AUDIO] * AUDIO_TOKENS)
    media = tokens - WORDS
    kind = torch.cat([chunk.repeat(media // len(chunk) + 1)[:media], torch.full((WORDS,), TEXT)])[None]
    place = torch.arange(tokens)[None]
    generator = torch.Generator().manual_seed(1)
    width, dtype = model.backbone.shape.width, next(model.backbone.parameters()).dtype
    return TokenStream(
        embeds=torch.randn(1, tokens, width, generator=generator).to(dtype),
        positions=place.expand(3, 1, tokens),
        kind=kind,
        time=torch.where(kind == TEXT, torch.nan, place / len(chunk) * 2.0),
        cell=torch.where((kind == VIDEO)[..., None], place[..., None] % 14, -1).expand(1, tokens, 2),
        mask=torch.ones_like(kind, dtype=torch.bool),
        next_position=torch.tensor([tokens]),
    )
