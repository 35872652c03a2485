"""CS2, the Cross-Modal Semantic Sieve: co-attention over all tokens, scores, the best of one joint pool.

Source: EchoingPixels (arXiv 2512.10324), section 3; details as observed in the published implementation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..backbones.base import Backbone
from ..backbones.decoder import TOKENS
from ..errors import ModelError, OptionError
from ..inputs.token_stream import Selection, TokenStream, top_k
from ..reducer_names import REDUCER_NAMES, SIEVED
from .chunked_scoring import Where, is_long, scored
from .score import Scored

NORM_EPS = 1e-6  # the selector's own, whatever the decoder's config says

Form = Literal["fused", "extractive"]


@dataclass(frozen=True)
class SieveOptions:
    """The configuration of a sieve. `sections` is its Sync-RoPE split [T, H, W, T] or None for plain M-RoPE.

    `fused`: kept tokens and text enter the decoder as the encoder's output, as published.
    `extractive`: the encoder only scores; kept tokens and text enter the decoder unchanged.
    `bidirectional`, `question`: for ablations; without the first a token is scored from the tokens before
    it, without the second from audio and video alone.
    """

    layers: int = 4
    form: Form = "fused"
    sections: tuple[int, ...] | None = None
    keep: float = 0.2
    tau: float = 1.0
    gumbel: bool = False
    bidirectional: bool = True
    question: bool = True

    def __post_init__(self) -> None:
        if self.form not in ("fused", "extractive"):
            raise OptionError(f"Unknown sieve form {self.form!r}.", "Known forms: fused, extractive.")
        if self.layers < 0 or self.tau <= 0:
            raise OptionError(f"A sieve needs layers ≥ 0 and tau > 0, not {self.layers} and {self.tau:g}.")


class ScoreHead(nn.Module):
    """RMSNorm → Linear(D, D) → SiLU → Linear(D, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = nn.RMSNorm(width, eps=NORM_EPS)
        self.score_head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) → scores (...)."""
        scores: Tensor = self.score_head(self.ln(hidden)).squeeze(-1)
        return scores


class Sieve(nn.Module):
    """The CS2 reducer: `sieve(stream, keep) -> Selection`, for one clip or a padded batch, training or inference."""

    def __init__(self, backbone: Backbone, options: SieveOptions) -> None:
        super().__init__()
        self.options = options
        self.layers = backbone.first_layers(options.layers, causal=not options.bidirectional)
        self.compressor = ScoreHead(backbone.shape.width)
        self._run = backbone.run_layers  # the backbone itself is no submodule

    def forward(self, stream: TokenStream, keep: float) -> Selection:
        """Score the pool and keep its best share.

        With labels in the stream (training), answers are hidden from the encoder and a straight-through gate carries
        the gradient to the scores. Rows without media pass unchanged in inference.
        """
        pool, made = stream.pool, self.scores(stream)
        scores = made.scores
        if scores is None:
            return Selection(keep=stream.mask)
        chosen = top_k(self._noisy(scores) if stream.labels is not None else scores, pool, stream.budget(keep))
        return Selection(
            keep=chosen | (stream.mask & ~pool),
            scores=scores,
            fused=made.fused,
            gate=None if stream.labels is None else self._gate(scores, pool, chosen),
        )

    def scores(self, stream: TokenStream) -> Scored:
        """Scores of the pool, and in the fused form the decoder's input; neither for a stream without media.

        In a long stream a token takes the encoder's last output for it: in the final pass over the best tokens of all
        windows if it was part of that, as all text is, else in its window.
        """
        if not any(row.pool for row in stream.row_sizes()):
            return Scored()
        fused = self.options.form == "fused"
        if not is_long(stream):
            hidden = self.encode(stream)
            return Scored(self.score(hidden), hidden if fused else None)
        alone = ~stream.pool.any(1)[:, None, None]  # rows without media stay unchanged
        last = stream.embeds * alone if fused else None

        def score(part: TokenStream, where: Where) -> Tensor:
            encoded = self.encode(part)
            if last is not None:
                last[where] = encoded[0]
            return self.score(encoded)

        return Scored(scored(stream, score), last)

    def score(self, hidden: Tensor) -> Tensor:
        """Scores (B, L) from the output of `encode`, meaningful inside the pool; in float32 for weights of any dtype.

        In bfloat16, scores near 10 would be 0.06 apart: many tokens would tie at the cut, and the earlier ones win.
        """
        head = self.compressor
        weights = {name: weight.float() for name, weight in head.named_parameters()}
        with torch.autocast(hidden.device.type, enabled=False):
            parts = torch.split(hidden, TOKENS, 1)
            return torch.cat([functional_call(head, weights, (part.float(),)) for part in parts], 1)

    def encode(self, stream: TokenStream) -> Tensor:
        """The joint stream after the encoder's layers (B, L, D); hidden tokens keep their embeddings."""
        if not self.layers:
            return stream.embeds
        # In training answers are hidden; in inference a row without media is encoded as it would be alone.
        open_ = stream.pool.any(1, keepdim=True) if stream.labels is None else stream.labels == -100
        visible = (stream.mask if self.options.question else stream.pool) & open_
        keys = visible | ~visible.any(1, keepdim=True) if self._hides(stream) else None  # a row needs at least one
        hidden = self._run(self.layers, stream.embeds, stream.positions, keys)
        return torch.where(visible[..., None], hidden, stream.embeds)

    def _hides(self, stream: TokenStream) -> bool:
        """Whether some row with visible tokens has hidden ones."""
        if stream.labels is not None or not self.options.question:
            return True
        return any(row.pool and row.total < stream.mask.shape[1] for row in stream.row_sizes())

    def _noisy(self, scores: Tensor) -> Tensor:
        if not self.options.gumbel:
            return scores
        return scores / self.options.tau - torch.empty_like(scores).exponential_().log()

    def shares(self, scores: Tensor, pool: Tensor) -> Tensor:
        """softmax(scores / tau) over each row's pool (B, L); 0 outside it and in rows without media."""
        logits = (scores / self.options.tau).masked_fill(~pool, -torch.inf)
        logits = torch.where(pool.any(1, keepdim=True), logits, torch.zeros_like(logits))
        return torch.where(pool, F.softmax(logits, dim=-1), 0.0)

    def _gate(self, scores: Tensor, pool: Tensor, chosen: Tensor) -> Tensor:
        """Forward 1, gradient through the shares; exactly 1 outside the pool."""
        p = self.shares(scores, pool)
        hard = (chosen | ~pool).float()
        return hard - p.detach() + p


def no_sieve(name: str) -> ModelError:
    """The error for cs2 on a model without sieve weights."""
    others = ", ".join(one for one in REDUCER_NAMES if one not in SIEVED)
    return ModelError(
        f"{name} has no sieve weights, which cs2 needs.", f"Give them with --sieve PATH, or use --reducer {others}."
    )
