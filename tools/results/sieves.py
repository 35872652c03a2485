"""Variants of the sieve for ablations, trained side by side on the model's own decoder, which is frozen.

Every variant starts from the decoder's first layers and takes the same steps on the same clips, those of the stage
`distil` of recipes/tiny.toml, with its loss; the distillation target is computed once for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from echoingpixels.backbones.base import Backbone, Shape
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.model import EchoingPixels
from echoingpixels.reducers.cs2 import Sieve, SieveOptions
from echoingpixels.storage.folders import filling
from echoingpixels.train.answers import thinned
from echoingpixels.train.draws import Draws
from echoingpixels.train.optimizer import optimizer_of
from echoingpixels.train.recipe import read_recipe
from echoingpixels.train.saliency import TARGETS, divergence
from echoingpixels.train.trainer import CLIP_NORM, rate
from epcli.console import progress

from ..tiny.bank import ClipSet, Reader
from ..tiny.recipe import TinyRecipe
from .plan import RECIPE, STEPS

BANK = Path("runs/tiny/bank")
WEIGHTS = "sieve.safetensors"
TWO = SieveOptions(2, "extractive")
VARIANTS = {
    "two": TWO,
    "one": replace(TWO, layers=1),
    "four": replace(TWO, layers=4),
    "causal": replace(TWO, bidirectional=False),
    "blind": replace(TWO, question=False),
    "plain": TWO,
}
PLAIN = (16, 24, 24)  # rotary pairs of time, height and width in Qwen2.5-Omni, whose ratio is kept


@dataclass(frozen=True)
class PlainRope:
    """A backbone whose layers run with plain M-RoPE when a sieve calls them; the decoder keeps its Sync-RoPE."""

    backbone: QwenOmni

    @property
    def shape(self) -> Shape:
        """Of the decoder."""
        return self.backbone.shape

    def first_layers(self, layers: int, causal: bool) -> nn.ModuleList:
        """Copies of the decoder's first layers."""
        return self.backbone.first_layers(layers, causal=causal)

    def run_layers(self, layers: nn.ModuleList, *inputs: Tensor) -> Tensor:
        """Run layers with sections in the ratio of PLAIN."""
        before = list(self.backbone.text.rotary_emb.mrope_section)
        time = round(sum(before) * PLAIN[0] / sum(PLAIN))
        height = (sum(before) - time) // 2
        self.backbone.set_sections([time, height, sum(before) - time - height])
        try:
            return self.backbone.run_layers(layers, *inputs)
        finally:
            self.backbone.set_sections(before)


def new(backbone: QwenOmni, name: str) -> Sieve:
    """An untrained variant."""
    on = PlainRope(backbone) if name == "plain" else backbone
    return Sieve(cast(Backbone, on), VARIANTS[name])


def trained(model: EchoingPixels, name: str, folder: Path) -> Sieve | None:
    """A variant from its folder; the first time, all that are missing beside it are trained together.

    None without the features of a training run to train on.
    """
    assert isinstance(model.backbone, QwenOmni)
    if not (folder / WEIGHTS).exists():
        recipe = read_recipe(RECIPE, TinyRecipe)
        data = recipe.data
        clips = ClipSet(recipe.seed, data.clips, data.shard, data.questions, data.searched)
        reader = Reader(BANK, recipe.seed, clips.names(model.backbone))
        reader.refresh()
        if not reader.examples:
            return None
        stage = next(stage for stage in recipe.stage if stage.task == "distil")
        missing = [one for one in VARIANTS if not (folder.parent / one / WEIGHTS).exists()]
        draws = Draws(reader, replace(stage, steps=STEPS, accumulate=1), recipe.seed, 1)
        train(model.backbone, missing, draws, folder.parent)
    sieve = new(model.backbone, name)
    sieve.load_state_dict(load_file(folder / WEIGHTS))
    return sieve.eval()


def train(backbone: QwenOmni, names: Sequence[str], draws: Draws, out: Path) -> None:
    """Train variants on the same draws, and write each to OUT/NAME."""
    stage, device = draws.stage, backbone.device.type
    torch.manual_seed(draws.seed)
    backbone.thinker.requires_grad_(False)
    sieves = {name: new(backbone, name).to(backbone.device).requires_grad_(True) for name in names}
    optimizers = {
        name: optimizer_of(stage.optimizer, sieve.named_parameters(), stage.lr, stage.weight_decay)
        for name, sieve in sieves.items()
    }
    schedules = [LambdaLR(optimizer, lambda step: rate(stage, step)) for optimizer in optimizers.values()]
    with progress("steps") as on_step:
        for step in range(stage.steps):
            draw = draws[step]
            with torch.autocast(device, dtype=torch.bfloat16):
                stream = thinned(backbone, draw).stream
                target = TARGETS[draw.target](backbone, stream)
            for name, sieve in sieves.items():
                with torch.autocast(device, dtype=torch.bfloat16):
                    loss = divergence(sieve.shares(sieve.score(sieve.encode(stream)), stream.pool), target)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(sieve.parameters(), CLIP_NORM)
                optimizers[name].step()
                optimizers[name].zero_grad()
            for schedule in schedules:
                schedule.step()
            on_step(step + 1, stage.steps)
    for name, sieve in sieves.items():
        with filling(out / name) as made:
            save_file({key: value.contiguous() for key, value in sieve.state_dict().items()}, made / WEIGHTS)
