"""Greedy or sampled decoding of a batch, token by token.

transformers' own generate() continues from the last prompt position; a clip whose audio ends early needs the largest
one, so the cached step is taken here (a test compares it with generate() where both apply).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..backbones.base import Backbone
from ..inputs.token_stream import TokenStream
from ..options import GenerateOptions
from ..report import Stopwatch

FinishReason = Literal["stop", "length"]
MASKED = 1024  # tokens under which rows are padded and masked: there a mask costs less than another run


@dataclass(frozen=True)
class Prefilled:
    """A decoder that has read a stream (B, L). `mask` (B, L): None where decoding needs none."""

    hidden: Tensor  # (B, 1, D), normalised, of the last place
    cache: Any
    mask: Tensor | None


@torch.no_grad()
def stream_tokens(
    backbone: Backbone,
    stream: TokenStream,
    options: GenerateOptions,
    watch: Stopwatch | None = None,
    on_prefill: Callable[[Prefilled], None] | None = None,
) -> Iterator[Tensor]:
    """Decode a left-padded stream: token after token (B,) int64 on the CPU, -1 in rows that have stopped.

    Stop tokens are yielded too. Positions continue from `stream.next_position`. The host reads a step's tokens once,
    inside the stage that it times, and waits for nothing else. `on_prefill` is called before the first token.
    """
    device = stream.embeds.device
    watch = watch or Stopwatch(device)
    generator = torch.Generator(device).manual_seed(options.seed)
    stops = torch.tensor(sorted(backbone.stop_ids), dtype=torch.long)
    with watch.stage("prefill"):
        hidden, cache, mask = prefill(backbone, stream, options)
        tokens = _choose(backbone.logits(hidden), options, generator)  # (B, 1)
        read = tokens.cpu()[:, 0]
    if on_prefill is not None:
        on_prefill(Prefilled(hidden, cache, mask))
    done = torch.zeros(len(stream.mask), dtype=torch.bool)
    for step in range(options.max_new_tokens):
        if step:
            with watch.stage("generate"):
                position = stream.next_position[:, None] + step - 1
                mask = None if mask is None else torch.cat([mask, torch.ones_like(tokens, dtype=torch.bool)], dim=1)
                logits = backbone.decode(tokens, position, mask, cache, options.compile)
                tokens = _choose(logits, options, generator)
                read = tokens.cpu()[:, 0]
        yield read.masked_fill(done, -1)
        done |= torch.isin(read, stops)
        if bool(done.all()):
            return


def prefill(backbone: Backbone, stream: TokenStream, options: GenerateOptions) -> tuple[Tensor, Any, Tensor | None]:
    """Hidden states (B, 1, D) of the last place, the KV cache, and the mask (B, L): None where decoding needs none.

    Long rows of one length run together, so that no row needs a mask: with one, attention could not use FlashAttention.
    """
    rows, length = stream.mask.shape
    if options.static or options.compile:  # places not written yet must not be attended to
        cache = backbone.new_cache(length + options.max_new_tokens)
        return backbone.hidden(stream, cache)[:, -1:], cache, stream.mask
    lengths = stream.mask.sum(1).tolist() if rows > 1 else [length]  # one row is never padded
    groups = _groups(lengths)
    if len(groups) == 1:
        cache = backbone.new_cache()
        return backbone.hidden(stream, cache)[:, -1:], cache, None if min(lengths) == length else stream.mask
    hidden, caches = [], []
    for group in groups:
        caches.append(backbone.new_cache())
        part = stream.rows(group, max(lengths[row] for row in group))
        hidden.append(backbone.hidden(part, caches[-1])[:, -1:])
    order = torch.tensor([row for group in groups for row in group]).argsort().to(stream.mask.device, non_blocking=True)
    return torch.cat(hidden)[order], backbone.joined_cache(caches, order), stream.mask


def _groups(lengths: list[int]) -> list[list[int]]:
    """Rows that run together: those under MASKED tokens, padded, and of the others each length by itself."""
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length if length >= MASKED else 0, []).append(row)
    return list(groups.values())


def _choose(logits: Tensor, options: GenerateOptions, generator: torch.Generator) -> Tensor:
    """The next token (B, 1) from logits (B, 1, V)."""
    if not options.temperature:
        return logits.argmax(-1)
    chances = torch.softmax(logits[:, 0].float() / options.temperature, dim=-1)
    return torch.multinomial(chances, 1, generator=generator)


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
