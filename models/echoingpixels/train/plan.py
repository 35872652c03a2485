"""The plan of a recipe: trained parts, steps and memory, computed without weights.

Activations follow the code, as measured with PyTorch's profiler on a CPU (docs/training.md). A checkpointed layer keeps
its input; during its own backward pass it also holds the activations of one layer. Other layers keep all activations.
Letters: L tokens, D width, M width of the MLP. Sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..backbones.base import Shape
from ..backbones.qwen_omni import QwenOmni
from ..inputs.patches import TOKEN
from ..inputs.positions import AUDIO_TOKENS_PER_S
from ..model import EchoingPixels
from ..options import LoadOptions
from ..planning.meta_model import outline, weight_bytes
from ..reducers.cs2 import Sieve
from .lora import no_module
from .questions import read_asked
from .recipe import Lora, Recipe, Stage
from .run import SIEVED, Run, check_stages, sieve_of

TEXT = 256  # tokens of a chat, question and answer, assumed
ANSWER = 128  # tokens of an answer, assumed
HALF, FULL = 2, 4  # bytes of a value in bfloat16 and in float32
VALUE = {"float32": FULL, "bfloat16": HALF}
ADAM = 2  # values that the optimizer keeps of each weight
LOGITS = 4  # float32 copies of an answer's logits, gradients included
CONTEXT = 600_000_000  # bytes of CUDA itself
SPARE = 0.9  # usable share of a device; fragments and other programs use the rest


@dataclass(frozen=True)
class Pass:
    """Layers that run forward and backward over `tokens` L, with `value` bytes for each value of the stream."""

    tokens: int
    layers: int
    value: int = HALF


@dataclass(frozen=True)
class Need:
    """Bytes on one device: frozen weights, trained weights with gradients and optimizer, activations of a step."""

    frozen: int
    learned: int
    activations: int

    @property
    def total(self) -> int:
        """The sum, with the memory of CUDA itself."""
        return self.frozen + self.learned + self.activations + CONTEXT

    def fits(self, device: float) -> bool:
        """Whether a device with this number of bytes is large enough."""
        return self.total <= SPARE * device


@dataclass(frozen=True)
class StagePlan:
    """A stage before it runs.

    `learned` counts the trained weights by part; `steps` is None where the question file does not exist yet; `tokens`
    is the length of the longest example; `need` is the memory on one of the recipe's GPUs.
    """

    stage: str
    task: str
    learned: dict[str, int]
    steps: int | None
    tokens: int
    need: Need


@dataclass(frozen=True)
class RecipePlan:
    """All stages, with the numbers of questions, clips and unreadable rows; None where there is no file yet."""

    stages: tuple[StagePlan, ...]
    questions: int | None
    clips: int | None
    bad: int = 0


def plan_recipe(recipe: Recipe, chosen: Sequence[str] = ()) -> RecipePlan:
    """Plan the chosen stages, or all, and read the question file if it exists. ModelError and DataError as in a run."""
    check_stages(chosen, Run.order(recipe))
    questions = clips = None
    bad = 0
    if recipe.data.train is not None and recipe.data.train.exists():
        rows, bad = read_asked(recipe.data.train, recipe.data.media)
        questions, clips = len(rows), len({row.clip for row in rows})
    assert recipe.model is not None
    options = LoadOptions(quant=recipe.quant, max_pixels=recipe.data.max_pixels, device="cuda")
    about = outline(recipe.model, options)
    backbone, sieve = about.model.backbone, about.model.sieve if about.own_sieve else None
    assert isinstance(backbone, QwenOmni)
    stages = []
    for stage in recipe.stage:
        if stage.task in SIEVED:
            with torch.device("meta"):
                sieve = sieve_of(backbone, sieve, stage)
        if not chosen or stage.name in chosen:
            stages.append(_stage(recipe, stage, backbone, sieve, questions))
    return RecipePlan(tuple(stages), questions, clips, bad)


def _stage(recipe: Recipe, stage: Stage, backbone: QwenOmni, sieve: Sieve | None, questions: int | None) -> StagePlan:
    longest = longest_tokens(recipe, backbone)
    learned = dict(_learned(stage, backbone, sieve))
    steps = (stage.steps or None) if questions is None else stage.steps_of(questions, recipe.gpus)
    need = _need(recipe, stage, backbone, sieve, learned, longest)
    return StagePlan(stage.name, stage.task, learned, steps, longest, need)


def longest_tokens(recipe: Recipe, backbone: QwenOmni) -> int:
    """The most tokens of an example: `max_length`, or those of a clip with all its frames at the given rate."""
    data = recipe.data
    video = math.ceil(data.max_frames / 2) * (backbone.resolution.most(data.max_frames) // TOKEN)
    audio = math.ceil(data.max_frames / data.fps * AUDIO_TOKENS_PER_S) if data.audio else 0
    return data.max_length or video + audio + TEXT


def _learned(stage: Stage, backbone: QwenOmni, sieve: Sieve | None) -> Iterator[tuple[str, int]]:
    """Trained weights, by part."""
    if "sieve" in stage.learns and sieve is not None:
        yield "sieve", _count(sieve)
    if "decoder" in stage.learns:
        if stage.lora is None:
            yield "decoder", _count(backbone.text) + _count(backbone.thinker.lm_head)
        else:
            yield "LoRA", _adapters(backbone, stage.lora)


def _adapters(backbone: QwenOmni, lora: Lora) -> int:
    """Weights of the two low-rank matrices of each adapted layer; DataError where no layer has such a name."""
    adapted = [
        module
        for name, module in backbone.text.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in lora.targets
    ]
    if not adapted:
        raise no_module(lora)
    return sum(lora.rank * (module.in_features + module.out_features) for module in adapted)


def _need(
    recipe: Recipe, stage: Stage, backbone: QwenOmni, sieve: Sieve | None, learned: dict[str, int], longest: int
) -> Need:
    whole = weight_bytes(EchoingPixels(backbone, None, recipe.quant))
    value, trained = backbone.dtype.itemsize, VALUE[stage.precision]
    decoder = learned.get("decoder", 0)
    frozen = whole - decoder * value
    if sieve is not None and "sieve" not in learned:
        frozen += _count(sieve) * value
    state = sum(learned_bytes(n, FULL if part == "LoRA" else trained, recipe.gpus) for part, n in learned.items())
    if recipe.gpus > 1:  # unsharded at one time: two layers, the weights outside the layers, and their gradients
        layer = _count(backbone.text.layers[0])
        root = decoder - len(backbone.text.layers) * layer if decoder else 0
        state += HALF * (2 * root + 4 * layer)
    runs, together = _passes(stage, longest, backbone, sieve, value)
    answer = ANSWER * stage.batch
    step = step_bytes(backbone.shape, runs, together, recipe.checkpointing, answer, recipe.quant != "none")
    return Need(frozen, state, step + _masks(stage, longest))


def learned_bytes(weights: int, value: int, processes: int = 1) -> int:
    """Weights, their gradients and AdamW's state, sharded over several processes (FSDP)."""
    return weights * value * (2 + ADAM) // processes


def pass_bytes(shape: Shape, run: Pass, checkpointing: bool) -> int:
    """The most that one pass holds at any time, besides weights and their gradients."""
    mlp, width = shape.mlp, shape.width
    if checkpointing:
        each, once = width * run.value, HALF * (6 * mlp + 8 * width)
    else:
        each, once = 6 * mlp + 7 * run.value * width, 6 * mlp + 16 * width
    return run.tokens * (run.layers * each + once)


def step_bytes(shape: Shape, passes: list[Pass], together: bool, checkpointing: bool, answer: int, quant: bool) -> int:
    """One step: its passes `together` or one after the other, the logits of the answers, and temporaries."""
    each = [pass_bytes(shape, run, checkpointing) for run in passes]
    weight = 2 * HALF * shape.mlp * shape.width if quant else 0  # a dequantized matrix, and its transpose
    return (sum(each) if together else max(each, default=0)) + answer * shape.vocab * FULL * LOGITS + weight


def _passes(stage: Stage, longest: int, backbone: QwenOmni, sieve: Sieve | None, value: int) -> tuple[list[Pass], bool]:
    """The forward and backward passes of a step, and whether all are held at once."""
    tokens, layers = stage.batch * longest, backbone.shape.layers
    if stage.task == "answers" or sieve is None:
        return [Pass(tokens + stage.batch * sum(ask.most for ask in stage.ask) * 32, layers, value)], True
    encoder = Pass(tokens, sieve.options.layers, value)
    if stage.task == "distil":  # the target first, then the sieve
        return [Pass(tokens, layers, value), encoder], False
    most = 1.0 if stage.gate == "soft" else max(ratio for phase in stage.keep for ratio in phase.ratios)
    kept = stage.batch * min(longest, math.ceil(most * longest) + TEXT)
    return [encoder, Pass(kept, layers, value)], True


def _masks(stage: Stage, longest: int) -> int:
    """Explicit attention masks, for soft gates and for several questions in one sequence."""
    if stage.gate == "soft":
        return 3 * FULL * stage.batch * longest**2
    return 2 * stage.batch * longest**2 if stage.task == "answers" else 0


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
