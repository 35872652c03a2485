"""Greedy or sampled decoding of a batch, token by token.

transformers' own generate() continues from the last prompt position; a clip whose audio ends early needs the largest
one, so the cached step is taken here (a test compares it with generate() where both apply).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbones.base import Backbone
from ..errors import OptionError
from ..inputs.token_stream import TokenStream
from ..options import GenerateOptions
from ..reducer_names import NO_STATIC
from ..report import Stopwatch

FinishReason = Literal["stop", "length"]
MASKED = 1024  # tokens under which rows are padded and masked: there a mask costs less than another run


@dataclass(frozen=True)
class Prefilled:
    """A decoder that has read a stream (B, L).

    `mask` (B, L): None where decoding needs none. `read` (B, L) int64: the number of layers that read each token, where
    the stream drops tokens inside the decoder, else None.
    """

    hidden: Tensor  # (B, 1, D), normalised, of the last place
    cache: Any
    mask: Tensor | None
    read: Tensor | None = None


@torch.no_grad()
def stream_tokens(
    backbone: Backbone,
    stream: TokenStream,
    options: GenerateOptions,
    watch: Stopwatch | None = None,
    on_prefill: Callable[[Prefilled], None] | None = None,
    done: Tensor | None = None,
) -> Iterator[Tensor]:
    """Decode a left-padded stream: token after token (B,) int64 on the CPU, -1 in rows that have stopped.

    Stop tokens are yielded too. Positions continue from `stream.next_position`. The host reads a step's tokens once,
    inside the stage that it times, and waits for nothing else. `on_prefill` is called before the first token. `done`
    (B,) bool on the CPU: rows that have stopped, where the caller may stop further ones between tokens.
    """
    device = stream.embeds.device
    watch = watch or Stopwatch(device)
    generator = torch.Generator(device).manual_seed(options.seed)
    stops = torch.tensor(sorted(backbone.stop_ids), dtype=torch.long)
    with watch.stage("prefill"):
        start = prefill(backbone, stream, options)
        tokens = _choose(backbone.logits(start.hidden), options, generator)  # (B, 1)
        read = tokens.cpu()[:, 0]
    if on_prefill is not None:
        on_prefill(start)
    mask, cache = start.mask, start.cache
    done = torch.zeros(len(stream.mask), dtype=torch.bool) if done is None else done
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


def prefill(backbone: Backbone, stream: TokenStream, options: GenerateOptions) -> Prefilled:
    """Run the decoder over a stream, with its drops. OptionError for drops with a cache of fixed length.

    Places that are known already are not run again. Long rows of one length run together, so that no row needs a mask:
    with one, attention could not use FlashAttention.
    """
    rows, length = stream.mask.shape
    if stream.known is not None:
        hidden = backbone.hidden(stream, stream.known)[:, -1:]
        return Prefilled(hidden, stream.known, stream.key_mask)
    fixed = options.static or options.compile
    if fixed and stream.drops:
        raise OptionError(*NO_STATIC)
    lengths = [row.total for row in stream.row_sizes()] if rows > 1 else [length]  # one row is never padded
    groups = _groups(lengths)
    if len(groups) == 1:
        made = replace(_run(backbone, stream), mask=None if min(lengths) == length else stream.mask)
    else:
        parts = [_run(backbone, stream.rows(group, max(lengths[row] for row in group))) for group in groups]
        made = _joined(backbone, parts, groups, stream.mask)
    if fixed:
        cache = backbone.fixed_caches.filled(made.cache, length + options.max_new_tokens)
        return replace(made, cache=cache, mask=stream.mask)  # hides the places that are not written yet
    if made.read is None:
        return made
    return replace(made, cache=backbone.uneven_cache(made.cache, made.read, stream.drops), mask=None)


def _run(backbone: Backbone, stream: TokenStream) -> Prefilled:
    """One run over all rows, with a KV cache that grows."""
    cache = backbone.new_cache()
    if not stream.drops:
        return Prefilled(backbone.hidden(stream, cache)[:, -1:], cache, stream.mask)
    end = backbone.descend(stream, cache)
    return Prefilled(end.hidden, cache, stream.mask, end.read)


def _joined(backbone: Backbone, parts: list[Prefilled], groups: list[list[int]], mask: Tensor) -> Prefilled:
    """The rows of several runs, left-padded, in the order of `mask` (B, L)."""
    order = torch.tensor([row for group in groups for row in group]).argsort().to(mask.device, non_blocking=True)
    cache = backbone.joined_cache([part.cache for part in parts], order)
    reads = [F.pad(part.read, (mask.shape[1] - part.read.shape[1], 0)) for part in parts if part.read is not None]
    read = torch.cat(reads)[order] if reads else None
    return Prefilled(torch.cat([part.hidden for part in parts])[order], cache, mask, read)


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
    """Turns one row's tokens into text as they come, holding back characters that are not yet whole.

    The text ends before the first of the `stop` texts; the beginning of one is held back, too.
    """

    def __init__(self, backbone: Backbone, stop: tuple[str, ...] = ()) -> None:
        self.backbone, self.stop = backbone, stop
        self.ids: list[int] = []
        self.text = ""
        self.reason: FinishReason = "length"
        self._held = ""  # whole characters after `text`, which may begin a stop text

    def push(self, token: int) -> str:
        """Take one token, return the new piece of text."""
        self.ids.append(token)
        if token in self.backbone.stop_ids:
            self.reason = "stop"
        whole = self.backbone.tokenizer.decode([i for i in self.ids if i not in self.backbone.stop_ids])
        if self.reason == "length" and whole.endswith("\ufffd"):
            return ""
        return self._take(whole)

    def rest(self) -> str:
        """The text that is still held back when no token follows."""
        piece, self._held = self._held, ""
        self.text += piece
        return piece

    def _take(self, whole: str) -> str:
        """The new piece of the text so far."""
        ends = [at for at in map(whole.find, self.stop) if at >= 0]
        if ends:
            whole, self.reason = whole[: min(ends)], "stop"
        until = len(whole) if self.reason == "stop" else len(whole) - _begun(whole, self.stop)
        piece, self.text, self._held = whole[len(self.text) : until], whole[:until], whole[until:]
        return piece


def _begun(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of a text that a stop text begins with."""
    lengths = range(max(map(len, stop), default=1) - 1, 0, -1)
    return next((n for n in lengths if any(one[:n] == text[-n:] for one in stop if len(one) > n)), 0)
