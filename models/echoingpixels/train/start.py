"""What a recipe starts from, and the sieve of a stage: built new, loaded, or taken on from the stage before."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ..backbones.qwen_omni import QwenOmni
from ..checkpoints.loading import device_of, new_sieve
from ..errors import DataError
from ..from_pretrained import load
from ..inputs.positions import check_sections
from ..reducers.cs2 import Sieve, SieveOptions
from .build import build_backbone
from .recipe import Recipe, Stage

SAME = ("layers", "form", "sections", "tau", "bidirectional", "question")  # named alike in both


def start(recipe: Recipe) -> tuple[QwenOmni, Sieve | None]:
    """The recipe's model, with the sieve that it may come with; or one of its sizes, untrained."""
    if recipe.model is None:
        torch.manual_seed(recipe.seed)  # what no stage has trained yet is in no checkpoint: it is made again
        backbone = build_backbone(recipe.sizes, recipe.name)
        backbone.thinker.to(device_of("auto"))
        backbone.train(recipe.checkpointing)
        return backbone, None
    model = load(recipe.model, max_pixels=recipe.data.max_pixels, quant=recipe.quant, reuse=None)
    assert isinstance(model.backbone, QwenOmni)
    model.backbone.train(recipe.checkpointing)
    return model.backbone, model.sieve


def sieve_of(backbone: QwenOmni, before: Sieve | None, stage: Stage, recipe: Recipe) -> Sieve:
    """The stage's sieve: `before` with the options that the stage changes, or a new one."""
    options = _options(before, stage, recipe)
    if before is not None and options.layers != before.options.layers:
        has = f"the sieve it goes on from has {before.options.layers}"
        raise DataError(f"Stage {stage.name!r} has layers = {options.layers}, and {has}.", "Leave layers out.")
    if stage.gate == "soft" and options.form == "fused":
        raise DataError(f"Stage {stage.name!r} has a soft gate and a fused sieve.", 'Set form = "extractive".')
    if options.sections is not None:
        backbone.set_sections(check_sections(options.sections, backbone.shape.head_size // 2))
    if before is None:
        return new_sieve(backbone, options).to(backbone.device)
    sieve = Sieve(backbone, options).to(backbone.device)
    sieve.load_state_dict(before.state_dict())
    return sieve


def _options(before: Sieve | None, stage: Stage, recipe: Recipe) -> SieveOptions:
    options: dict[str, Any] = {}
    if before is not None:
        options = asdict(before.options) | {"auto": None}  # trained on, it has to be calibrated again
    if before is None and recipe.model is None:
        options["sections"] = recipe.sizes.sections
    options |= {name: getattr(stage, name) for name in SAME if getattr(stage, name) is not None}
    if stage.gate is not None:
        options["gumbel"] = stage.gate == "gumbel"
    return SieveOptions(**options)
