"""Greedy or sampled decoding after the tokens were chosen. Streaming is the primitive; blocking calls fold it.

transformers' own generate() continues from the last prompt position; a clip whose sound ends early needs the largest
one, so the cached step is taken here (a test holds it against generate() where both apply).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from ..backbones.base import Backbone
from ..errors import OptionError
from ..inputs.positions import TEXT
from ..inputs.stream import Stream
from ..options import GenerateOptions
from ..report import Stopwatch
from .prompt_lookup import guess

FinishReason = Literal["stop", "length"]
MASKED = 1024  # tokens under which rows are padded and masked: there a mask costs less than another run


@torch.no_grad()
def stream_tokens(
    backbone: Backbone, stream: Stream, options: GenerateOptions, watch: Stopwatch | None = None
) -> Iterator[Tensor]:
    """Decode a left-padded stream: token after token (B,) int64 on the CPU, -1 in rows that have stopped.

    Stopping tokens are given out too. Positions go on from `stream.next_position`. A step decodes the newest token and,
    with a lookup, guesses after it; those that the model itself says are given out. OptionError for that with B > 1.
    The host reads a step's tokens once, inside the stage that it times, and waits for nothing else.
    """
    device, rows = stream.embeds.device, len(stream.mask)
    if options.lookup and rows > 1:
        raise OptionError(f"Prompt lookup decodes one question at a time, not {rows}.", "Leave it out, or ask alone.")
    watch = watch or Stopwatch(device)
    generator = torch.Generator(device).manual_seed(options.seed)
    stops = torch.tensor(sorted(backbone.stop_ids), dtype=torch.long)
    with watch.stage("prefill"):
        hidden, cache, mask = prefill(backbone, stream, options)
        tokens = _choose(backbone.logits(hidden), options, generator)  # (B, 1)
        read = tokens.cpu()
    done = torch.zeros(rows, dtype=torch.bool)
    known: list[int] = stream.ids[stream.kind == TEXT].tolist() if options.lookup and stream.ids is not None else []
    said = 0
    while True:
        for token in read.unbind(1):
            yield token.masked_fill(done, -1)
            said, done = said + 1, done | torch.isin(token, stops)
            if bool(done.all()) or said == options.max_new_tokens:
                return
        with watch.stage("generate"):
            guessed: list[int] = []
            if options.lookup:
                known += read[0].tolist()
                guessed = guess(known, min(options.lookup, options.max_new_tokens - said - 1))
            step = tokens[:, -1:]
            if guessed:  # (1, 1 + guesses)
                step = torch.cat([step, torch.tensor([guessed]).to(device, non_blocking=True)], dim=1)
            places = stream.next_position[:, None] + said - 1 + torch.arange(step.shape[1], device=device)
            mask = None if mask is None else torch.cat([mask, torch.ones_like(step, dtype=torch.bool)], dim=1)
            tokens = _choose(backbone.decode(step, places, mask, cache, options.compile), options, generator)
            read = tokens.cpu()
            if guessed and (wrong := int((read[:, :-1] != torch.tensor(guessed)).cummax(1).values.sum())):
                backbone.shorten(cache, wrong)
                tokens, read, mask = tokens[:, :-wrong], read[:, :-wrong], None if mask is None else mask[:, :-wrong]


def prefill(backbone: Backbone, stream: Stream, options: GenerateOptions) -> tuple[Tensor, Any, Tensor | None]:
    """Hidden states (B, 1, D) of the last place, the KV cache, and the mask (B, L): None where decoding needs none.

    Long rows of one length run together, so that no row needs a mask: with one, attention could not use FlashAttention.
    """
    rows, length = stream.mask.shape
    if options.static or options.compile:  # what is not written yet must not be attended to
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
    """A token (B, N) for each place of logits (B, N, V); where they are drawn, N is 1."""
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
