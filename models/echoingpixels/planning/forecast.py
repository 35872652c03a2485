"""What one question will take, from sizes alone: tokens before and after the choice, and memory. Runs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ..inputs.prepare import Inputs, Media, prepare_prompt
from ..inputs.stream import Selection, Stream
from ..options import SIEVED, AskOptions, Auto
from ..reducers.adaptive import MOST
from ..reducers.basic import full, uniform
from ..report import TokenCounts
from .device_memory import resident
from .estimate import Memory, Sizes, stages
from .meta_model import Outline, weight_bytes


@dataclass(frozen=True)
class Case:
    """A question about a clip, of which only sizes are known, and the model that is to answer it.

    `options`: settled. `clip_bytes`: what was read of the clip and is in memory while it is encoded.
    """

    outline: Outline
    media: Media
    question: str
    options: AskOptions
    clip_bytes: int = 0

    @cached_property
    def stream(self) -> Stream:
        """The prompt's stream with embeddings of width 0."""
        backbone = self.outline.model.backbone
        prompt = prepare_prompt(self.media, self.question, backbone.tokenizer, backbone.layout)
        return _stream(prompt)

    @property
    def before(self) -> TokenCounts:
        """Tokens by kind before selection."""
        return self.stream.row_counts()[0]

    @cached_property
    def kept(self) -> TokenCounts:
        """Expected tokens by kind after selection."""
        return self.stream.take(_foreseen(self.stream, self.options)).row_counts()[0]


def memory_of(case: Case, free: int | None = None) -> Memory:
    """The memory of answering, stage by stage; `free` is what there is."""
    outline, media = case.outline, case.media
    model, backbone, before = outline.model, outline.model.backbone, case.before
    cuda = outline.device.type == "cuda"
    sieve = sum(p.numel() * p.element_size() for p in (model.sieve.parameters() if model.sieve else ()))
    used = outline.own_sieve or case.options.reducer in SIEVED
    weights = weight_bytes(model) - (0 if used else sieve)
    steps, rows, columns = media.grid or (0, 0, 0)
    sizes = Sizes(
        shape=backbone.shape,
        vision=backbone.vision_shape,
        hearing=backbone.audio_shape,
        weights=weights,
        sieve=sieve if used else 0,
        value=backbone.dtype.itemsize,
        quant=model.quant,
        cuda=cuda,
        clip=case.clip_bytes,
        patches=steps * rows * columns,
        step=rows * columns,
        mel=0 if media.mel is None else media.mel.shape[1],
        seen=before.video + before.image,
        heard=before.audio,
        tokens=before.total,
        kept=case.kept.total,
        said=case.options.generate.max_new_tokens,
        reducer=case.options.reducer,
        words=int(case.stream.words.sum()),
    )
    program = 0 if cuda else max(0, resident() - case.clip_bytes)
    return Memory(weights, program, tuple(stages(sizes)), free)


def _foreseen(stream: Stream, options: AskOptions) -> Selection:
    """As many tokens of each kind as will be kept, or an even choice where that depends on what is in the clip."""
    keep = MOST if isinstance(options.keep, Auto) else options.keep
    return (full if options.reducer == "full" else uniform)(stream, keep)


def _stream(prompt: Inputs) -> Stream:
    return Stream(
        embeds=torch.empty(*prompt.kind.shape, 0),
        positions=prompt.positions,
        kind=prompt.kind,
        time=prompt.time,
        cell=prompt.cell,
        mask=torch.ones_like(prompt.kind, dtype=torch.bool),
        next_position=prompt.positions.amax(dim=(0, 2)) + 1,
        question=prompt.question,
    )
