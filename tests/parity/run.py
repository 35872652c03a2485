"""What our model makes of one recorded case with one set of options, value by value, under the recorded names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.generation.decode import stream_tokens
from echoingpixels.inputs.positions import AUDIO, TEXT
from echoingpixels.inputs.token_stream import Selection, TokenStream
from echoingpixels.options import GenerateOptions
from tests.parity.case import Case
from tests.parity.model import RecordedModel


@dataclass(frozen=True)
class Options:
    """One variant, or what the variants of a shared value have in common."""

    sections: list[int]
    layers: int = 0
    keep: float = 1.0
    train: bool = False
    copied: bool = False


@dataclass(frozen=True)
class Generated:
    """A greedy continuation of n tokens."""

    tokens: Tensor  # (B, n)
    positions: Tensor  # (4, B, n - 1), as fed
    cached: list[list[int]]  # cache length at each fed step, by row
    logits: Tensor  # (B, n, V)


class Recorder:
    """The backbone without stop ids; records the positions it is fed and the logits it returns."""

    def __init__(self, backbone: QwenOmni) -> None:
        self.backbone = backbone
        self.stop_ids: frozenset[int] = frozenset()
        self.steps: list[Tensor] = []  # (B, V) a step
        self.positions: list[Tensor] = []  # (B,) a cached step
        self.cached: list[list[int]] = []  # real tokens in the cache, by row

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._record(self.backbone.logits(hidden))

    def decode(
        self, token: Tensor, position: Tensor, mask: Tensor | None, cache: Any, compiled: bool = False
    ) -> Tensor:
        self.positions.append(position[:, 0])
        self.cached.append([cache.get_seq_length()] * len(token) if mask is None else (mask.sum(1) - 1).tolist())
        return self._record(self.backbone.decode(token, position, mask, cache, compiled))

    def _record(self, logits: Tensor) -> Tensor:
        """Logits (B, 1, V), as they are."""
        self.steps.append(logits[:, 0])
        return logits


@dataclass
class Run:
    """Everything between the embedded batch and the logits; (B, L, …) as ours, padded on the left."""

    model: RecordedModel
    case: Case
    options: Options
    first_layers: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sieve = self.model.sieve(self.options.sections, self.options.layers, self.options.copied)
        self.backbone = self.model.backbone
        self.backbone.thinker.zero_grad()
        self.stream = self.case.training_batch(self.model) if self.options.train else self.case.batch()

    def _first_layer(self, name: str, layers: nn.ModuleList, run: Callable[[], Any]) -> Any:
        """Run something, and note what the first of some layers gives on the way."""

        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.first_layers[name] = output[0] if isinstance(output, tuple) else output

        handles = [layer.register_forward_hook(note) for layer in layers[:1]]
        with torch.set_grad_enabled(self.options.train):
            out = run()
        for handle in handles:
            handle.remove()
        return out

    @cached_property
    def selection(self) -> Selection:
        selection: Selection = self._first_layer(
            "encoder_layer0_out", self.sieve.layers, lambda: self.sieve(self.stream, self.options.keep)
        )
        return selection

    @cached_property
    def kept(self) -> TokenStream:
        return self.stream.take(self.selection)

    @cached_property
    def logits(self) -> Tensor:
        hidden: Tensor = self._first_layer(
            "decoder_layer0_out", self.backbone.text.layers, lambda: self.backbone.hidden(self.kept)
        )
        with torch.set_grad_enabled(self.options.train):
            return self.backbone.logits(hidden)

    def rotary(self, stream: TokenStream) -> tuple[Tensor, Tensor]:
        """The cosine and sine tables (B, L, head size) of a stream's positions."""
        cos, sin = self.backbone.text.rotary_emb(stream.embeds, stream.positions)
        return cos, sin

    def whole(self, name: str) -> Tensor | None:
        """A value (B, L, …) of the whole prompt, or None if no such name is known."""
        scores = self.selection.scores
        known: dict[str, Callable[[], Tensor | None]] = {
            "position_ids": lambda: _four(self.stream.positions),
            "inputs_embeds": lambda: self.stream.embeds,
            "cos_merged": lambda: self.rotary(self.stream)[0],
            "sin_merged": lambda: self.rotary(self.stream)[1],
            "encoder_layer0_out": lambda: self.first_layers.get("encoder_layer0_out"),
            "encoder_out": lambda: self.stream.embeds if self.selection.fused is None else self.selection.fused,
            "scores_raw": lambda: scores,
            "select_prob": lambda: None if scores is None else self.sieve.shares(scores, self.stream.pool),
        }
        return known[name]() if name in known else None

    def left(self, name: str) -> Tensor | None:
        """A value (B, K, …) of the kept tokens, or None if no such name is known."""
        known: dict[str, Callable[[], Tensor | None]] = {
            "compressed_hidden": lambda: self.kept.embeds,
            "position_ids_kept": lambda: _four(self.kept.positions),
            "attention_mask_kept": lambda: self.kept.mask,
            "cos_merged_kept": lambda: self.rotary(self.kept)[0],
            "sin_merged_kept": lambda: self.rotary(self.kept)[1],
            "decoder_layer0_out": lambda: self.first_layers["decoder_layer0_out"] if self.logits.numel() else None,
            "logits": lambda: self.logits,
            "labels_kept": lambda: self.kept.labels,
        }
        return known[name]() if name in known else None

    @cached_property
    def loss(self) -> Tensor:
        """Mean next-token loss over the kept answer tokens of all rows."""
        assert self.kept.labels is not None
        rows = [(x[m][:-1], y[m][1:]) for x, y, m in zip(self.logits, self.kept.labels, self.kept.mask, strict=True)]
        return F.cross_entropy(torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows]))

    def gradient(self, name: str) -> Tensor | None:
        """The loss's gradient with respect to a parameter of a published name."""
        if "backward" not in self.first_layers:
            self.loss.backward()  # type: ignore[no-untyped-call]
            self.first_layers["backward"] = self.loss
        parameter = self.model.parameter(name, self.sieve)
        if parameter is None:
            return None
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def generated(self, n: int) -> Generated:
        """n greedy tokens, whatever they are."""
        recorder = Recorder(self.backbone)
        tokens = torch.stack(list(stream_tokens(recorder, self.kept, GenerateOptions(max_new_tokens=n))), 1)  # (B, n)
        fed = torch.stack(recorder.positions, 1) if n > 1 else tokens[:, :0]  # (B, n - 1)
        return Generated(tokens, fed.expand(4, -1, -1), recorder.cached, torch.stack(recorder.steps, 1))

    def counts(self) -> list[dict[str, int]]:
        """Kept tokens of each row as the manifest counts them."""
        kept = self.kept
        return [
            {
                "audio": int((m & (k == AUDIO)).sum()),
                "video_or_image": int((m & (k != AUDIO) & (k != TEXT)).sum()),
                "total": int(m.sum()),
            }
            for m, k in zip(kept.mask, kept.kind, strict=True)
        ]

    def gaps(self) -> list[float]:
        """Distance between the last kept and the first dropped score, for each row that drops any."""
        out = []
        if self.selection.scores is not None:
            for scores, pool, keep in zip(
                self.selection.scores.detach(), self.stream.pool, self.selection.keep, strict=True
            ):
                if bool((pool & ~keep).any()):
                    out.append(float(scores[pool & keep].min() - scores[pool & ~keep].max()))
        return out


def _four(positions: Tensor) -> Tensor:
    """Positions (3, B, L) as the recorded (B, L, 4): time, height, width, time again."""
    return torch.cat([positions, positions[:1]]).permute(1, 2, 0)
