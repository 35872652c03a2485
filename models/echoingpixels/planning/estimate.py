"""Memory of an answer, stage by stage, from the sizes of a model and a prompt; and the memory that a device has.

Token counts come from the prompt and the reducers' budget, chunk sizes from the encoders. The rest is the working
memory of one encoder or decoder layer. Sizes are bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones.attention import QUERIES_AT_ONCE
from ..backbones.decoder import TOKENS as MLP_TOKENS
from ..backbones.fixed_cache import places
from ..backbones.sizes import product_bytes
from ..inputs.descent import counts_by_layer, descend
from ..inputs.mel import BLOCK, MEL_BINS
from ..inputs.patches import MERGE, PATCH, STEP
from ..inputs.prepare import Media
from ..inputs.prompt import prepare_prompt
from ..inputs.token_stream import TokenStream
from ..model import EchoingPixels
from ..options import AskOptions
from ..reducer_names import SIEVED
from ..reducers.chunked_scoring import passes
from ..reducers.novelty import TOKENS_AT_ONCE
from ..reducers.registry import reducer_named, shares_prefix
from ..report import TokenCounts
from .meta_model import Outline, weight_bytes

PATCH_VALUES = 3 * STEP * PATCH * PATCH
FLOAT = 4  # bytes
PREPARING = 9  # bytes a value of a frame: its copy, then float32 twice, as pixels and as patches
SPECTRUM = 5_000  # bytes a mel frame, while it is made
PROC, GROUP = Path("/proc"), Path("/sys/fs/cgroup")
KIB = 1024
GOLDEN = (5**0.5 - 1) / 2  # the multiples of which fill an interval evenly


@dataclass(frozen=True)
class Case:
    """A question about a clip, of which only sizes are known, and the model that is to answer it.

    `options`: with a concrete reducer. `clip_bytes`: of the clip in memory while it is encoded.
    """

    outline: Outline
    media: Media
    question: str
    options: AskOptions
    clip_bytes: int = 0

    @cached_property
    def stream(self) -> TokenStream:
        """The prompt's stream with embeddings of width 0."""
        backbone = self.outline.model.backbone
        prompt = prepare_prompt(self.media, self.question, backbone.tokenizer, backbone.layout)
        return TokenStream(
            embeds=torch.empty(*prompt.kind.shape, 0),
            positions=prompt.positions,
            kind=prompt.kind,
            time=prompt.time,
            cell=prompt.cell,
            mask=torch.ones_like(prompt.kind, dtype=torch.bool),
            next_position=prompt.positions.amax(dim=(0, 2)) + 1,
            question=prompt.question,
        )

    @property
    def before(self) -> TokenCounts:
        """Tokens by kind before selection."""
        return self.stream.row_counts()[0]

    @cached_property
    def by_layer(self) -> tuple[TokenCounts, ...]:
        """Tokens by kind that each layer reads; if scores decide, those of an even choice of the same budget."""
        layers, reducer = self.outline.model.backbone.shape.layers, reducer_named(self.options.reducer)
        kept = self.stream.take(reducer.kept_without_a_model(self.stream, self.options.keep, layers))
        end = descend(kept, layers, lambda part, *_: part.embeds, _evenly)
        return counts_by_layer(kept, end.read, layers)[0]

    @property
    def loaded(self) -> EchoingPixels:
        """The model as a run loads it: without a sieve if it has none of its own and the reducer needs none."""
        model, uses_sieve = self.outline.model, self.outline.own_sieve or self.options.reducer in SIEVED
        return model if uses_sieve else EchoingPixels(model.backbone, None, model.quant)


def _evenly(stream: TokenStream, layer: int) -> Tensor:
    """In place of attention (B, L): small numbers whose greatest are evenly spread."""
    return (1e-3 * (torch.arange(stream.mask.shape[1]) * GOLDEN % 1)).expand_as(stream.time)


@dataclass(frozen=True)
class Stage:
    """Bytes of one stage beside the weights: kept from stages before (`held`), the KV cache, and working memory."""

    name: str
    held: int
    kv_cache: int
    activations: int

    @property
    def beside_weights(self) -> int:
        """The sum."""
        return self.held + self.kv_cache + self.activations


@dataclass(frozen=True)
class Memory:
    """Memory of an answer on its device. `program`: of the process, 0 on CUDA; `free`: the most that it may hold."""

    weights: int
    program: int
    stages: tuple[Stage, ...]
    free: int | None = None

    @property
    def peak(self) -> int:
        """The largest stage, with the weights."""
        return self.weights + self.program + max(stage.beside_weights for stage in self.stages)

    @property
    def kv_cache(self) -> int:
        """At the end of the answer."""
        return self.stages[-1].kv_cache

    @property
    def fits(self) -> bool | None:
        """Whether the peak is within the free memory; None if that is unknown."""
        return None if self.free is None else self.peak <= self.free

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; under `stages` the total of each."""
        resting = self.weights + self.program
        return {
            "weights": self.weights,
            "peak": self.peak,
            "program": self.program,
            "kv_cache": self.kv_cache,
            "stages": {stage.name: resting + stage.beside_weights for stage in self.stages},
            "activations": {stage.name: stage.activations for stage in self.stages},
            "free": self.free,
        }


def memory_of(case: Case) -> Memory:
    """The memory of an answer, stage by stage, and the free memory of its device."""
    device = case.outline.device
    program = 0 if device.type == "cuda" else max(0, resident() - case.clip_bytes)
    return Memory(weight_bytes(case.loaded), program, tuple(_stages(case)), free_memory(device))


def _stages(case: Case) -> Iterator[Stage]:
    """Every stage of an answer, in order. On CUDA the memory of the host is left out."""
    work, cuda, counts = _Work(case), case.outline.device.type == "cuda", case.before
    video, audio = (counts.video + counts.image) * work.token, counts.audio * work.token
    each = [read.total for read in case.by_layer]
    length, kept, new = counts.total, each[0], case.options.generate.max_new_tokens
    clip = 0 if cuda else case.clip_bytes
    if not cuda:
        pixels, mel = work.patches * PATCH_VALUES, work.mel
        # The file of a sieve is read before its weights are copied to their places.
        yield Stage("load", 0, 0, sum(p.nbytes for p in case.loaded.sieve.parameters()) if case.loaded.sieve else 0)
        yield Stage("prepare", clip, 0, max(PREPARING * pixels, FLOAT * pixels + SPECTRUM * min(mel, BLOCK)))
        clip += FLOAT * (pixels + mel * MEL_BINS)
    else:
        yield Stage("load", 0, 0, 0)
    yield Stage("vision", clip, 0, max(2 * video, work.encoded_before * work.token + work.vision()))
    yield Stage("audio", clip + video, 0, audio + max(audio, work.audio()))
    held = (0 if cuda else case.clip_bytes) + video + audio
    yield Stage("select", held + length * work.token, 0, work.selection(length, kept))
    held += kept * work.token
    generate = case.options.generate  # with a cache of fixed length, the last answer's stays in memory
    fixed = [places(kept + new)] * len(each) if generate.static or generate.compile else []
    yield Stage("prefill", held, work.kv_cache(*each, *fixed), work.prefill(each))
    # A cache of fixed length is copied from one that grows; of that, one layer at a time is copied to become longer.
    grown = work.kv_cache(*each) if fixed else work.kv_cache(kept + new)
    held += work.kv_cache(*each) if shares_prefix(case.options) else 0  # kept for the next question
    last = work.shape.vocab * work.value + round(work.layer(1, work.quant))
    yield Stage("generate", held, work.kv_cache(*(fixed or (tokens + new for tokens in each))), grown + last)


class _Work:
    """Working memory of one step of each stage. L tokens, D width, M the MLP's width."""

    def __init__(self, case: Case) -> None:
        model, media = case.outline.model, case.media
        backbone = model.backbone
        self.case, self.shape, self.quant = case, backbone.shape, model.quant
        self.vision_shape, self.audio_shape = backbone.vision_shape, backbone.audio_shape
        self.cuda, self.value = case.outline.device.type == "cuda", backbone.dtype.itemsize
        self.token = self.shape.width * self.value  # bytes of an embedding
        steps, rows, columns = media.grid or (0, 0, 0)
        at_once = min(steps, backbone.steps_at_once(rows, columns)) if steps else 0
        self.patches = at_once * rows * columns  # that are prepared and encoded at once
        self.encoded_before = max(0, steps // max(1, at_once) - 1) * self.patches // MERGE**2  # tokens
        self.mel = 0 if media.mel is None else media.mel.shape[1]
        self.mel_at_once = max(last - first for first, last in backbone.mel_cuts(self.mel)) if self.mel else 0

    def kv_cache(self, *tokens: int) -> int:
        """Keys and values of layers with that many tokens."""
        return 2 * self.shape.kv_heads * self.shape.head_size * sum(tokens) * self.value

    def vision(self) -> int:
        """A chunk of the vision encoder: its patches, cosines, sines, and the most of rotary, attention and MLP."""
        shape, value = self.vision_shape, self.value
        copied = PATCH_VALUES * value if self.cuda or value != FLOAT else 0
        rotary = 5 * shape.width * value + shape.width * FLOAT * (6 if value != FLOAT else 4)
        attention, mlp = 10 * shape.width * value, 3 * (shape.width + shape.mlp) * value
        return self.patches * (copied + 2 * shape.head_size * FLOAT + max(rotary, attention, mlp))

    def audio(self) -> int:
        """A chunk of the audio encoder: the log-mel twice, and the largest of convolutions, attention and MLP."""
        shape, frames = self.audio_shape, self.mel_at_once
        copies = 1 if self.value == FLOAT and not self.cuda else 2
        layers = max(3 * shape.width + 2 * shape.mlp, 8 * shape.width)
        return self.value * (copies * MEL_BINS * frames + max(2 * shape.width * frames, layers * (frames // 2)))

    def selection(self, length: int, kept: int) -> int:
        """The sieve's layers, or the decoder's first, over the tokens that are scored at once; or the taking."""
        reducer, pool = reducer_named(self.case.options.reducer), int(self.case.stream.pool.sum())
        scored, score = max(passes(pool, length - pool)), reducer.scorer
        taking = 2 * kept * self.token  # the kept tokens, and a copy while padding is set to 0
        most = max(taking, reducer.pick.bytes(self.shape, length))
        if score.needs_sieve:
            return max(most, round(self.layer(scored, "none", MLP_TOKENS)))
        if score.compares_steps:
            values = 5 if self.value != FLOAT else 4
            most = max(most, min(length, TOKENS_AT_ONCE) * self.shape.width * FLOAT * values)
        if score.reads_attention:
            one = round(self.layer(scored, self.quant)) - scored * self.token  # the layer reads the stream itself
            most = max(most, one, self._attention_scores(scored))
        return most

    def _attention_scores(self, tokens: int) -> int:
        """The last layer that is read: its input, its keys in float32, and a block's logits, weights and mask."""
        shape, block = self.shape, min(QUERIES_AT_ONCE, int(self.case.stream.question_tokens.sum()))
        weights = shape.heads * (2 * block + 3) * FLOAT + block  # 3: maximum and sum, and the next of one of them
        return tokens * (self.token + shape.kv_heads * shape.head_size * FLOAT + weights)

    def prefill(self, tokens: list[int]) -> int:
        """Layers with that many tokens, beside the KV cache of all. The first reads the stream itself."""
        filled = [self.kv_cache(*tokens[: i + 1]) + round(self.layer(n, self.quant)) for i, n in enumerate(tokens)]
        return max([filled[0] - tokens[0] * self.token, *filled[1:]]) - self.kv_cache(*tokens)

    def layer(self, tokens: int, quant: str, at_once: int | None = None) -> float:
        """One decoder layer over L tokens: the most that is alive at once, in its attention or in its MLP.

        `at_once`: tokens that its MLP takes at once; None for all.
        """
        shape, value = self.shape, self.value
        heads, shared = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        attention = 2 * shape.width + 3 * heads + 2 * shared + 2 * max(heads, shared)
        through = min(tokens, at_once or tokens)  # the MLP
        whole = 3 * (shape.width * tokens + shape.mlp * through)
        up = 3 * shape.width * tokens + 2 * shape.mlp * through  # while the second half of the MLP is computed
        joined = 4 * shape.width * tokens if through < tokens else 0
        work = product_bytes(shape.mlp, shape.width, through, quant, value, self.cuda)
        most = max(attention * value * tokens, whole * value, up * value + work, joined * value)
        return 2 * shape.head_size * value * tokens + most


def resident() -> int:
    """Bytes of memory that this process holds; 0 if the system does not report it."""
    with suppress(OSError, ValueError, IndexError):
        return int((PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may hold on the device, with those it holds now; None if unknown.

    On a CPU the available memory, or the limit of the control group if that is less.
    """
    if device.type == "cuda":
        with suppress(RuntimeError, AssertionError):  # no driver, or a torch without CUDA
            return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return None
    left = min(_available(), default=None)
    return None if left is None else left + resident()


def _available() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * KIB
    with suppress(OSError, ValueError):  # the limit is `max` if there is none
        limit, used = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        cache = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        yield max(0, limit - used + int(cache.get("inactive_file", 0)))
