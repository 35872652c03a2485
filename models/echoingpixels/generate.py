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
from .errors import OptionError
from .lookup import guess
from .options import GenerateOptions
from .positions import TEXT
from .stats import Stopwatch
from .stream import Stream

FinishReason = Literal["stop", "length"]


@torch.no_grad()
def stream_tokens(
    backbone: Backbone, stream: Stream, options: GenerateOptions, watch: Stopwatch | None = None
) -> Iterator[Tensor]:
    """Decode a left-padded stream: token after token (B,) int64, -1 in rows that have stopped.

    Stopping tokens are given out too. Positions go on from `stream.next_position`. A step decodes the newest token and,
    with a lookup, guesses after it; those that the model itself says are given out. OptionError for that with B > 1.
    """
    device, (rows, length) = stream.embeds.device, stream.mask.shape
    if options.lookup and rows > 1:
        raise OptionError(f"Prompt lookup decodes one question at a time, not {rows}.", "Leave it out, or ask alone.")
    watch = watch or Stopwatch(device)
    generator = torch.Generator(device).manual_seed(options.seed)
    stops = torch.tensor(sorted(backbone.stop_ids), dtype=torch.long, device=device)
    static = options.static or options.compile
    cache, mask = backbone.new_cache(length + options.max_new_tokens if static else None), stream.mask
    with watch.stage("prefill"):
        tokens = _choose(backbone.logits(backbone.hidden(stream, cache)[:, -1:]), options, generator)  # (B, 1)
    done = torch.zeros_like(tokens[:, 0], dtype=torch.bool)
    known: list[int] = [] if stream.ids is None else stream.ids[stream.kind == TEXT].tolist()
    said = 0
    while True:
        for token in tokens.unbind(1):
            yield token.masked_fill(done, -1)
            said, done = said + 1, done | torch.isin(token, stops)
            if bool(done.all()) or said == options.max_new_tokens:
                return
        with watch.stage("generate"):
            guessed: list[int] = []
            if options.lookup:
                known += tokens[0].tolist()
                guessed = guess(known, min(options.lookup, options.max_new_tokens - said - 1))
            step = torch.cat([tokens[:, -1:], tokens.new_tensor([guessed] * rows)], dim=1)  # (B, 1 + guesses)
            places = stream.next_position[:, None] + said - 1 + torch.arange(step.shape[1], device=device)
            mask = torch.cat([mask, torch.ones_like(step, dtype=torch.bool)], dim=1)
            tokens = _choose(backbone.decode(step, places, mask, cache, options.compile), options, generator)
            if guessed and (wrong := int((tokens[:, :-1] != step[:, 1:]).cummax(1).values.sum())):
                backbone.shorten(cache, wrong)
                tokens, mask = tokens[:, :-wrong], mask[:, :-wrong]


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
