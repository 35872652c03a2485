"""Greedy or sampled decoding after the tokens were chosen. Streaming is the primitive; blocking calls fold it.

transformers' own generate() continues from the last prompt position; a clip whose sound ends early needs the largest
one, so the cached step is taken here (a test holds it against generate() where both apply).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from .backbones.base import Backbone
from .options import GenerateOptions
from .stats import Stopwatch
from .stream import Stream

FinishReason = Literal["stop", "length"]


@torch.no_grad()
def stream_tokens(
    backbone: Backbone, stream: Stream, options: GenerateOptions, watch: Stopwatch | None = None
) -> Iterator[Tensor]:
    """Decode a left-padded stream: each step's tokens (B,) int64, -1 in rows that have stopped.

    Stopping tokens are given out too. Positions go on from `stream.next_position`.
    """
    watch = watch or Stopwatch(stream.embeds.device)
    generator = torch.Generator(stream.embeds.device).manual_seed(options.seed)
    stops = torch.tensor(sorted(backbone.stop_ids), dtype=torch.long, device=stream.embeds.device)
    cache, mask = backbone.new_cache(), stream.mask
    with watch.stage("prefill"):
        logits = backbone.logits(backbone.hidden(stream, cache)[:, -1])  # (B, V)
        token = _choose(logits, options, generator)
    done = torch.zeros_like(token, dtype=torch.bool)
    for step in range(options.max_new_tokens):
        yield token.masked_fill(done, -1)
        done = done | torch.isin(token, stops)
        if bool(done.all()) or step + 1 == options.max_new_tokens:
            return
        with watch.stage("generate"):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            logits = backbone.decode(token, stream.next_position + step, mask, cache)
            token = _choose(logits, options, generator)


def _choose(logits: Tensor, options: GenerateOptions, generator: torch.Generator) -> Tensor:
    if not options.temperature:
        return logits.argmax(-1)
    chances = torch.softmax(logits.float() / options.temperature, dim=-1)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


class Text:
    """Turns one row's tokens into text as they come, holding back characters that are not yet whole."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.ids: list[int] = []
        self.text = ""
        self.reason: FinishReason = "length"

    def push(self, token: int) -> str:
        """Take one token, return the new piece of text."""
        self.ids.append(token)
        if token in self.backbone.stop_ids:
            self.reason = "stop"
        whole = self.backbone.tokenizer.decode([i for i in self.ids if i not in self.backbone.stop_ids])
        if self.reason == "length" and whole.endswith("\ufffd"):
            return ""
        piece, self.text = whole[len(self.text) :], whole
        return piece
