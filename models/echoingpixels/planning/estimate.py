"""How much memory an answer takes, stage by stage, from shapes alone. Knows nothing about weights, files or options.

It follows what the code does: both towers in chunks, attention without an (L, L) mask, float32 inside rotary and norms,
logits of one place. Sizes are bytes; letters as elsewhere (L tokens, D width), and M an MLP's width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..backbones.attention import QUERIES_AT_ONCE
from ..backbones.base import AudioShape, Shape, VisionShape
from ..backbones.chunked_mlp import TOKENS as MLP_TOKENS
from ..backbones.quantized import product_bytes
from ..inputs.mel import BLOCK, MEL_BINS
from ..inputs.patches import MERGE, PATCH, STEP
from ..options import SIEVED
from ..reducers.basic import TOKENS_AT_ONCE
from ..reducers.chunked_scoring import passes

PATCH_VALUES = 3 * STEP * PATCH * PATCH
FLOAT = 4  # bytes
PREPARING = 9  # bytes a value of a frame: its copy, then float32 twice, as pixels and as patches
SPECTRUM = 5_000  # bytes a mel frame, while it is made


@dataclass(frozen=True)
class Sizes:
    """A model and a prompt in numbers. `value`: bytes of one that is not quantized; `cuda`: where it runs.

    Of the clip: `clip` bytes as it was read, `patches` (and of one temporal step) and `mel` frames, `seen` and `heard`
    tokens. `tokens` L of the prompt, `kept` of them, and `said` more.
    """

    shape: Shape
    vision: VisionShape
    hearing: AudioShape
    weights: int
    sieve: int  # bytes, of `weights`
    value: int
    quant: str
    cuda: bool
    clip: int
    patches: int
    step: int
    mel: int
    seen: int
    heard: int
    tokens: int
    kept: int
    said: int
    reducer: str
    words: int  # of the question


@dataclass(frozen=True)
class Stage:
    """Bytes of one stage beside the weights: what stays (`held`), the KV cache, and what comes and goes."""

    name: str
    tokens: int
    held: int
    kv_cache: int
    activations: int

    @property
    def beside_weights(self) -> int:
        """All of them together."""
        return self.held + self.kv_cache + self.activations


@dataclass(frozen=True)
class Memory:
    """What an answer takes on its device. `program`: what the process itself holds there, 0 on CUDA.

    `free`: what it may take in all, None where that cannot be known.
    """

    weights: int
    program: int
    stages: tuple[Stage, ...]
    free: int | None = None

    @property
    def peak(self) -> int:
        """The most at any time."""
        return self.weights + self.program + max(stage.beside_weights for stage in self.stages)

    @property
    def kv_cache(self) -> int:
        """At the answer's end."""
        return self.stages[-1].kv_cache

    @property
    def fits(self) -> bool | None:
        """Whether there is as much; None where that is not known."""
        return None if self.free is None else self.peak <= self.free

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: under `stages` all that is there in each of them."""
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


def stages(sizes: Sizes) -> Iterator[Stage]:
    """Every stage of an answer, in order. On CUDA what only the host holds is left out."""
    width = sizes.shape.width * sizes.value
    pixels = _chunk(sizes) * PATCH_VALUES
    prepared = 0 if sizes.cuda else FLOAT * (pixels + sizes.mel * MEL_BINS)
    clip = 0 if sizes.cuda else sizes.clip
    # A sieve's file is read before it is put in its place, weight by weight.
    yield Stage("load", 0, 0, 0, 0 if sizes.cuda else sizes.sieve)
    if not sizes.cuda:
        yield Stage("prepare", 0, clip, 0, max(PREPARING * pixels, FLOAT * pixels + SPECTRUM * min(sizes.mel, BLOCK)))
    seen, heard = sizes.seen * width, sizes.heard * width
    yield Stage("vision", sizes.seen, clip + prepared, 0, max(2 * seen, _before(sizes) * width + _looking(sizes)))
    yield Stage("audio", sizes.heard, clip + prepared + seen, 0, heard + max(heard, _listening(sizes)))
    features, stream = seen + heard, sizes.tokens * width
    yield Stage("select", sizes.tokens, clip + features + stream, 0, _choosing(sizes))
    kept = clip + features + sizes.kept * width
    yield Stage("prefill", sizes.kept, kept, _kv(sizes, sizes.kept), round(_layer(sizes, sizes.kept, sizes.quant)))
    after = sizes.kept + sizes.said
    grown = _kv(sizes, after) // sizes.shape.layers  # one layer's at a time is copied to be longer
    last = sizes.shape.vocab * sizes.value + round(_layer(sizes, 1, sizes.quant))
    yield Stage("generate", after, kept, _kv(sizes, after), grown + last)


def _kv(sizes: Sizes, tokens: int) -> int:
    """Keys and values of all layers."""
    shape = sizes.shape
    return shape.layers * 2 * shape.kv_heads * shape.head_size * tokens * sizes.value


def _looking(sizes: Sizes) -> int:
    """One chunk of the vision tower: its patches, cosines and sines, and the larger of rotary and MLP."""
    if not sizes.patches:
        return 0
    tower, value = sizes.vision, sizes.value
    copied = PATCH_VALUES * value if sizes.cuda or value != FLOAT else 0
    rotary = 5 * tower.width * value + tower.width * FLOAT * (6 if value != FLOAT else 4)
    mlp = 3 * (tower.width + tower.mlp) * value
    return _chunk(sizes) * (copied + 2 * tower.head_size * FLOAT + max(rotary, mlp))


def _chunk(sizes: Sizes) -> int:
    """Patches that are made and seen at once: whole temporal steps."""
    step = max(1, sizes.step)
    return min(sizes.patches, max(1, sizes.vision.at_once // step) * step)


def _before(sizes: Sizes) -> int:
    """Tokens that are there already when the last full chunk is seen."""
    whole = sizes.patches // max(1, _chunk(sizes))
    return max(0, whole - 1) * _chunk(sizes) // MERGE**2


def _listening(sizes: Sizes) -> int:
    """One chunk of the audio tower: the sound twice, and the largest of convolutions, attention and MLP."""
    tower, value = sizes.hearing, sizes.value
    frames = min(sizes.mel, tower.at_once)
    copies = 1 if value == FLOAT and not sizes.cuda else 2
    places = frames // 2
    layers = max(3 * tower.width + 2 * tower.mlp, 8 * tower.width)
    return value * (copies * MEL_BINS * frames + max(2 * tower.width * frames, layers * places))


def _choosing(sizes: Sizes) -> int:
    """The sieve's layers, or the decoder's first, over what is rated at once; neighbours' likeness; or the taking."""
    pool, width = sizes.seen + sizes.heard, sizes.shape.width
    rated = max(passes(pool, sizes.tokens - pool))
    taking = 2 * sizes.kept * width * sizes.value  # what is kept, and once more while padding is blanked
    if sizes.reducer in SIEVED:
        return max(taking, round(_layer(sizes, rated, "none", MLP_TOKENS)))
    news = min(sizes.tokens, TOKENS_AT_ONCE) * width * FLOAT * (5 if sizes.value != FLOAT else 4)
    if sizes.reducer in ("fastv", "relevance"):  # they read attention weights
        one = round(_layer(sizes, rated, sizes.quant)) - rated * width * sizes.value  # which reads the stream itself
        return max(taking, news, one, _attended(sizes, rated))
    return max(taking, news) if sizes.reducer == "repeats" else taking


def _attended(sizes: Sizes, tokens: int) -> int:
    """The last layer that is read: its input, its keys in float32, and a block's logits, weights and mask."""
    shape = sizes.shape
    block = 1 if sizes.reducer == "fastv" else min(QUERIES_AT_ONCE, sizes.words)
    running = 3 if sizes.reducer == "relevance" else 0  # maximum and sum, and the next of one of them
    weights = shape.heads * (2 * block + running) * FLOAT + block
    return tokens * (shape.width * sizes.value + shape.kv_heads * shape.head_size * FLOAT + weights)


def _layer(sizes: Sizes, tokens: int, quant: str, at_once: int | None = None) -> float:
    """One decoder layer over so many tokens: the most that is alive at once, in its attention or in its MLP.

    `at_once`: tokens that its MLP takes at once; None for all.
    """
    shape, value = sizes.shape, sizes.value
    heads, shared = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    attention = 2 * shape.width + 3 * heads + 2 * shared + 2 * max(heads, shared)
    through = min(tokens, at_once or tokens)  # the MLP
    whole = 3 * (shape.width * tokens + shape.mlp * through)
    up = 3 * shape.width * tokens + 2 * shape.mlp * through  # while the second half of the MLP is computed
    joined = 4 * shape.width * tokens if through < tokens else 0
    work = product_bytes(shape.mlp, shape.width, through, quant, value, sizes.cuda)
    most = max(attention * value * tokens, whole * value, up * value + work, joined * value)
    return 2 * shape.head_size * value * tokens + most
