"""What a recipe would train, in how many steps and with how much memory, told without any weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..backbones.qwen_omni import QwenOmni
from ..errors import DataError
from ..inputs.patches import TOKEN
from ..inputs.positions import AUDIO_TOKENS_PER_S
from ..model import EchoingPixels
from ..options import LoadOptions
from ..planning.meta_model import outline, weight_bytes
from ..reducers.cs2 import Sieve
from .build import build_backbone
from .memory import FULL, HALF, Need, Pass, learned_bytes, step_bytes
from .recipe import Lora, Recipe, Stage
from .rows import read_asked
from .start import sieve_of

TEXT = 256  # tokens of a chat, question and answer, taken for granted
SYNCCLIPS = 512  # tokens of one clip and what is asked
ANSWER = 128  # tokens
VALUE = {"float32": FULL, "bfloat16": HALF}


@dataclass(frozen=True)
class Outlook:
    """A stage before it is run. `learned`: weights that learn, by part. `steps` None: the questions are not there yet.

    `tokens`: of the longest example. `need`: on one of the recipe's GPUs; None where towers learn: not planned.
    """

    stage: str
    task: str
    learned: dict[str, int]
    steps: int | None
    tokens: int
    need: Need | None


@dataclass(frozen=True)
class Prospect:
    """All stages, and what is asked: questions about how many clips, rows that cannot be read; None: no file yet."""

    stages: tuple[Outlook, ...]
    questions: int | None
    clips: int | None
    bad: int = 0


def foresee(recipe: Recipe) -> Prospect:
    """Plan every stage, and read the question file if it is there. ModelError and DataError as a run would raise."""
    questions = clips = None
    bad = 0
    if recipe.data.train is not None and recipe.data.train.exists():
        rows, bad = read_asked(recipe.data.train, recipe.data.media)
        questions, clips = len(rows), len({row.clip for row in rows})
    backbone, sieve = _outline(recipe)
    stages = []
    for stage in recipe.stage:
        if stage.task in ("distil", "sieve"):
            with torch.device("meta"):
                sieve = sieve_of(backbone, sieve, stage, recipe)
        stages.append(_stage(recipe, stage, backbone, sieve, questions))
    return Prospect(tuple(stages), questions, clips, bad)


def _outline(recipe: Recipe) -> tuple[QwenOmni, Sieve | None]:
    """The recipe's model, and the sieve it comes with, without weights."""
    if recipe.model is None:
        with torch.device("meta"):
            return build_backbone(recipe.sizes, recipe.name), None
    options = LoadOptions(quant=recipe.quant, max_pixels=recipe.data.max_pixels, device="cuda")  # what is planned for
    about = outline(recipe.model, options)
    assert isinstance(about.model.backbone, QwenOmni)
    return about.model.backbone, about.model.sieve if about.own_sieve else None


def _stage(recipe: Recipe, stage: Stage, backbone: QwenOmni, sieve: Sieve | None, questions: int | None) -> Outlook:
    longest = longest_tokens(recipe, backbone)
    learned = dict(_learned(stage, backbone, sieve))
    steps = stage.steps or None
    if questions is not None:
        steps = stage.steps_of(questions, recipe.gpus)
    need = None if "towers" in stage.learns else _need(recipe, stage, backbone, sieve, learned, longest)
    return Outlook(stage.name, stage.task, learned, steps, longest, need)


def longest_tokens(recipe: Recipe, backbone: QwenOmni) -> int:
    """The most tokens of an example: as the recipe allows, or of a clip as long as its frames last at its rate."""
    data = recipe.data
    if data.train is None:
        return SYNCCLIPS
    steps = math.ceil(data.max_frames / 2)
    seen = steps * (backbone.resolution.most(data.max_frames) // TOKEN)
    heard = math.ceil(data.max_frames / data.fps * AUDIO_TOKENS_PER_S) if data.audio else 0
    return data.max_length or seen + heard + TEXT


def _learned(stage: Stage, backbone: QwenOmni, sieve: Sieve | None) -> Iterator[tuple[str, int]]:
    """Weights that learn, by part."""
    if "towers" in stage.learns:
        model = backbone.thinker.model
        yield "towers", _count(model.visual) + (_count(model.audio_tower) if stage.task == "towers" else 0)
    if "sieve" in stage.learns and sieve is not None:
        yield "sieve", _count(sieve)
    if "decoder" in stage.learns:
        if stage.lora is None:
            yield "decoder", _count(backbone.text) + _count(backbone.thinker.lm_head)
        else:
            yield "LoRA", _adapters(backbone, stage.lora)


def _adapters(backbone: QwenOmni, lora: Lora) -> int:
    """Weights of two thin matrices beside each that is adapted; DataError where none has such a name."""
    adapted = [
        module
        for name, module in backbone.text.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in lora.targets
    ]
    if not adapted:
        hint = "Name linear layers of the decoder, such as q_proj, v_proj or down_proj."
        raise DataError(f"LoRA finds no module named {', '.join(lora.targets)}.", hint)
    return sum(lora.rank * (module.in_features + module.out_features) for module in adapted)


def _need(
    recipe: Recipe, stage: Stage, backbone: QwenOmni, sieve: Sieve | None, learned: dict[str, int], longest: int
) -> Need:
    whole = weight_bytes(EchoingPixels(backbone, None, recipe.quant))
    value, mine = backbone.dtype.itemsize, VALUE[stage.precision]
    own = learned.get("decoder", 0)
    frozen = whole - own * value
    if sieve is not None and "sieve" not in learned:
        frozen += _count(sieve) * value
    took = sum(learned_bytes(n, FULL if part == "LoRA" else mine, recipe.gpus) for part, n in learned.items())
    if recipe.gpus > 1:  # what is there whole at a time: two layers, the root's own weights, and their gradients
        layer = _count(backbone.text.layers[0])
        root = own - len(backbone.text.layers) * layer if own else 0
        took += HALF * (2 * root + 4 * layer)
    runs, together = _passes(stage, longest, backbone, sieve, value)
    answer = ANSWER * stage.batch
    made = step_bytes(backbone.shape, runs, together, recipe.checkpointing, answer, recipe.quant != "none")
    return Need(frozen, took, made + _masks(stage, longest, recipe))


def _passes(stage: Stage, longest: int, backbone: QwenOmni, sieve: Sieve | None, value: int) -> tuple[list[Pass], bool]:
    """What a step runs forward and backward, and whether all of it is there at once."""
    tokens, layers = stage.batch * longest, backbone.shape.layers
    if stage.task == "answers" or sieve is None:
        return [Pass(tokens + stage.batch * (stage.questions + stage.statements) * 32, layers, value)], True
    encoder = Pass(tokens, sieve.options.layers, value)
    if stage.task == "distil":  # the target first, then the sieve
        return [Pass(tokens, layers, value), encoder], False
    most = 1.0 if stage.gate == "soft" else max(ratio for phase in stage.keep for ratio in phase.ratios)
    kept = stage.batch * min(longest, math.ceil(most * longest) + TEXT)
    return [encoder, Pass(kept, layers, value)], True


def _masks(stage: Stage, longest: int, recipe: Recipe) -> int:
    """Attention that is written out, for soft gates and for several questions in one sequence."""
    if stage.gate == "soft":
        return 3 * FULL * stage.batch * longest**2
    return 2 * stage.batch * longest**2 if stage.task == "answers" else 0


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
