"""What the answer reads from the KV cache: the first-order effect of each token's values on the answer's log-odds.

The decoder runs again over the text after the clip and the answer only, layer by layer, and back: memory holds the
activations of one layer. The prompt's tokens before that text are read from the KV cache that decoding has left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inputs.token_stream import TokenStream
from .decoder import kv_name

LOGITS_AT_ONCE = 1 << 24  # elements of float32


@dataclass(frozen=True)
class _Tail:
    """The text after each row's clip with its answer, padded on the right; T text tokens and N answer tokens a row."""

    embeds: Tensor  # (B, R, D)
    positions: Tensor  # (3, B, R)
    mask: Tensor  # (B, 1, R, P + R), added to the attention logits
    before: Tensor  # (B, P) int64 places of the tokens before the tail, aligned on the right
    known: Tensor  # (B, P) bool, False at padding
    aligned: bool  # whether `before` is 0 … P - 1 in every row
    given: Tensor  # (3, M) int64 of all answer tokens: row, place in the tail that predicts it, id


@dataclass(frozen=True)
class _Before:
    """A layer's keys and values (B, KV, P, d) before the tail, in place of a KV cache."""

    keys: Tensor
    values: Tensor

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values with those of the tail."""
        return torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)


def contributions(
    text: Any, logits: Callable[[Tensor], Tensor], stream: TokenStream, cache: Any, answers: Sequence[Sequence[int]]
) -> Tensor | None:
    """∑ ∂ log-odds(answer) / ∂ value · value over heads and layers: float32 (B, L), 0 for text after the clip.

    `text`: the decoder; `cache`: as decoding has left it; `answers`: token ids of each row. The log-odds of an
    answer's tokens are summed; the gradient of their log-probability would vanish where the model is certain.
    None where there are no gradients.
    """
    if not _differentiable(text):
        return None
    tail = _tail(text, stream, answers)
    rotary = text.rotary_emb(tail.embeds, tail.positions)
    entered, hidden = [], tail.embeds  # hidden states (B, R, D) that enter each layer
    with torch.no_grad():
        for i, layer in enumerate(text.layers):
            entered.append(hidden)
            hidden = _run(layer, hidden, _Before(*_before(cache, i, tail)), tail.mask, rotary)
    gradient = _start(text.norm, logits, hidden, tail)
    found = torch.zeros(tail.before.shape, device=hidden.device)  # (B, P)
    for i in reversed(range(len(entered))):
        keys, values = _before(cache, i, tail)
        with torch.enable_grad():
            values, hidden = values.detach().requires_grad_(), entered.pop().detach().requires_grad_()
            after = _run(text.layers[i], hidden, _Before(keys, values), tail.mask, rotary)
            by_value, gradient = torch.autograd.grad(after, (values, hidden), gradient)
        found += (by_value.float() * values.detach().float()).sum((1, 3))
    return torch.zeros_like(stream.time).scatter_add_(1, tail.before, found.masked_fill(~tail.known, 0.0))


def _differentiable(text: Any) -> bool:
    """Not in torch's inference mode, and not with four-bit weights on a CPU, which evaluation mode has packed."""
    packed = any(type(module).__name__ == "Linear4bit" for module in text.layers[0].modules())
    on_cpu: bool = text.embed_tokens.weight.device.type == "cpu"
    return not torch.is_inference_mode_enabled() and not (packed and on_cpu and not text.training)


def _tail(text: Any, stream: TokenStream, answers: Sequence[Sequence[int]]) -> _Tail:
    """The tail of each row; the answer's last token enters no layer, as nothing follows it."""
    rows, length = stream.mask.shape
    free: Any = {"device": stream.mask.device, "non_blocking": True}
    texts = [max(1, n) for n in stream.after_media.sum(1).tolist()]  # the host waits for the device
    longest, prefix = max(map(len, answers)), length - min(texts)
    width = max(1, *(n + len(ids) - 1 for n, ids in zip(texts, answers, strict=True)))
    start = length - torch.tensor(texts)[:, None]  # (B, 1), the first place of the tail
    place = (start + torch.arange(width)).clamp(max=length + longest - 1).to(**free)  # (B, R)
    before = start - prefix + torch.arange(prefix)  # (B, P)
    index, inside = before.clamp(min=0).to(**free), (before >= 0).to(**free)
    known = inside & stream.mask.gather(1, index)
    causal = torch.ones(width, width, dtype=torch.bool, device=stream.mask.device).tril()
    visible = torch.cat([known[:, None].expand(-1, width, -1), causal.expand(rows, -1, -1)], 2)[:, None]
    ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in answers]).to(**free)  # (B, N)
    following = stream.next_position[:, None] + torch.arange(longest, device=stream.mask.device)
    embeds = torch.cat([stream.embeds, text.embed_tokens(ids).to(stream.embeds)], 1)
    positions = torch.cat([stream.positions, following.expand(3, -1, -1)], 2)
    row = torch.arange(rows, device=stream.mask.device)[:, None]
    given = [(i, texts[i] - 1 + n, token) for i, one in enumerate(answers) for n, token in enumerate(one)]
    return _Tail(
        embeds=embeds[row, place],
        positions=positions[:, row, place],
        mask=torch.zeros_like(visible, dtype=embeds.dtype).masked_fill_(~visible, -torch.inf),
        before=index,
        known=known,
        aligned=len(set(texts)) == 1,
        given=torch.tensor(given).T.to(**free),
    )


def _before(cache: Any, layer: int, tail: _Tail) -> tuple[Tensor, Tensor]:
    """A layer's keys and values (B, KV, P, d) before the tail."""
    kept = cache.layers[layer].keys, cache.layers[layer].values
    if tail.aligned:
        return kept[0][:, :, : tail.before.shape[1]], kept[1][:, :, : tail.before.shape[1]]
    index = tail.before[:, None, :, None].expand(-1, kept[0].shape[1], -1, kept[0].shape[3])
    return kept[0].gather(2, index), kept[1].gather(2, index)


def _run(layer: Any, hidden: Tensor, before: _Before, mask: Tensor, rotary: Any) -> Tensor:
    made: Tensor = layer(hidden, attention_mask=mask, position_embeddings=rotary, **{kv_name(): before})
    return made


def _start(norm: Any, logits: Callable[[Tensor], Tensor], hidden: Tensor, tail: _Tail) -> Tensor:
    """The gradient of the log-odds by the last layer's output `hidden` (B, R, D), a bounded part at a time."""
    gradient, (row, place, ids) = torch.zeros_like(hidden), tail.given
    read = hidden[row, place]  # (M, D)
    size = max(1, LOGITS_AT_ONCE // logits(read[:1]).shape[-1])
    for first in range(0, len(read), size):
        part = slice(first, first + size)
        with torch.enable_grad():
            leaf, token = read[part].detach().requires_grad_(), ids[part, None]
            scores = logits(norm(leaf)).float()
            others = scores.scatter(1, token, -torch.inf).logsumexp(1)
            (by_leaf,) = torch.autograd.grad((scores.gather(1, token)[:, 0] - others).sum(), leaf)
        gradient.index_put_((row[part], place[part]), by_leaf, accumulate=True)
    return gradient
