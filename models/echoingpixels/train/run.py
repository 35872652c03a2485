"""Runs a recipe's stages in order and saves the model after each. A stage goes on from its last checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ..backbones.qwen_omni import QwenOmni
from ..checkpoints.fingerprint import encoders_mark, identity_of
from ..checkpoints.sieve_io import save_sieve
from ..errors import DataError, OptionError
from ..from_pretrained import save
from ..model import EchoingPixels
from ..reducers.cs2 import Sieve
from . import checkpoint, lora
from .accuracy import accuracy
from .answers import loss_of
from .bank import ClipSet, Reader, Supply, fill
from .clips import Clips, read_clips
from .draws import Draws
from .log import check_extra, log_of
from .recipe import BANK, Recipe, Stage
from .rows import read_asked
from .sharpen import FITTED, Sharpened
from .start import sieve_of, start
from .towers import Batches, Taught
from .trainer import Learner, Loss, teach
from .views import Seeing, Views, drawn_clips, own_clips
from .world import is_sharded, world

VALID_SEED = 1_000_003  # of clips never trained on
OTHER = 2_000_003  # added to a seed: clips that stage towers did not see
SIEVED = ("distil", "sieve")  # tasks
LOOKING = ("towers", "views", "sharpen")  # tasks that see pictures, and no features of them
CHECKED = (0.2, 0.05)  # keep ratios at which a sieve is tried while it trains


@dataclass
class Run:
    """A recipe on its way: the model as it is by now, and the folder that holds what was made.

    `read`: the clips, and the mark of the encoders whose features they have. `adapted`: the adapters of a quantized
    decoder, which are never merged. `base`: mark of the model that the recipe starts from.
    """

    recipe: Recipe
    out: Path
    backbone: QwenOmni
    sieve: Sieve | None
    read: tuple[str, Supply, Supply | None] | None = None
    adapted: Any = None
    base: str = field(init=False)

    def __post_init__(self) -> None:
        own = identity_of(self.backbone, self.backbone.name)
        self.base = f"{own.weights} {own.layers} {encoders_mark(self.backbone)} {self.recipe.quant}"

    @property
    def makes(self) -> str:
        """What a stage leaves: a `model`; of a quantized one, whose weights stay as they are, a `sieve`."""
        return _product(self.recipe)

    def stage(self, stage: Stage, number: int, train: bool) -> None:
        """Train the stage to its end; where that is done, only read it. Without `train`, DataError if it is not."""
        torch.manual_seed(self.recipe.seed + number)
        folder = self.out / stage.name
        with world().main_process_first():
            saved = checkpoint.last(folder)
        stage = self._counted(stage)
        whole = checkpoint.step_of(saved) >= stage.steps
        if not (whole or train):
            raise DataError(f"Stage {stage.name!r} is not complete in {self.out}.", "Run it first, or all stages.")
        modules, loss, end = self.parts(stage)
        learner = Learner(modules, loss)
        if saved is not None:
            checkpoint.read(learner, saved)  # the Trainer would pass over weights that do not fit
        if not whole:
            if world().is_main_process:
                shutil.rmtree(folder / self.makes, ignore_errors=True)
            draws, check = self._data(stage, number)
            log = log_of(self.recipe.log, self.out, stage.name)
            workers = int(stage.task in LOOKING)  # rendering takes as long as the step it is for
            teach(learner, draws, stage, self.recipe.seed, folder, log, check, saved, workers)
            if is_sharded(learner):
                del learner, modules, loss, end
                return self._again(number)
        end()
        self._save(folder / self.makes)

    def _again(self, number: int) -> None:
        """Shards cannot be put together in place: start anew and read what the stages have learned so far."""
        self.backbone, self.sieve = start(self.recipe)
        for before, stage in enumerate(self.recipe.stage[:number], 1):
            self.stage(stage, before, train=False)

    def _counted(self, stage: Stage) -> Stage:
        """With the steps that its epochs take."""
        if stage.steps:
            return stage
        source, _ = self.sources()
        assert isinstance(source, Clips), "SyncClips have no epochs"
        return replace(stage, steps=stage.steps_of(len(source.pairs()), world().num_processes))

    def fill(self) -> None:
        """Run the towers over all clips, those that are not there yet."""
        if self.recipe.data.train is None:
            with world().main_process_first():  # the others find it done
                for wanted in self._sets():
                    fill(self.backbone, self.out / BANK, wanted)
        else:
            self.sources()

    def _sets(self) -> tuple[ClipSet, ClipSet]:
        """SyncClips to check on, and to train on."""
        data = self.recipe.data
        valid = ClipSet(VALID_SEED, data.valid_clips, data.valid_clips, data.questions)
        return valid, ClipSet(self.recipe.seed, data.clips, data.shard, data.questions, data.searched)

    def parts(self, stage: Stage) -> tuple[nn.Module, Loss, Callable[[], None]]:
        """What the stage trains, its loss, and what is to be done when it is over; all else is frozen."""
        thinker = self.backbone.thinker.requires_grad_(False)
        if stage.task == "towers":
            taught = Taught(self.backbone).to(self.backbone.device)
            thinker.model.visual.requires_grad_(True)
            thinker.model.audio_tower.requires_grad_(True)
            first = self._shown(stage)
            return taught, taught.loss, lambda: taught.settle(self.backbone, first[0])
        if stage.task == "views":
            thinker.model.visual.requires_grad_(True)
            seeing = Seeing(self.backbone)
            return seeing, seeing.loss, lambda: None
        if stage.task == "sharpen":
            thinker.model.visual.requires_grad_(True)
            seen = self._shown(stage)
            sharpened = Sharpened(self.backbone, (seen[i] for i in range(min(FITTED, stage.steps))))
            return sharpened.to(self.backbone.device), sharpened.loss, lambda: None
        parts: dict[str, nn.Module] = {}
        adapted, dtype = None, getattr(torch, stage.precision)
        if stage.task in SIEVED:
            self.sieve = sieve_of(self.backbone, self.sieve, stage, self.recipe)
            parts["sieve"] = self.sieve.to(dtype).requires_grad_(True)
        if "decoder" in stage.learns:
            if stage.lora is None:
                parts["text"] = self.backbone.text.to(dtype).requires_grad_(True)
                parts["head"] = thinker.lm_head.to(dtype).requires_grad_(True)
            else:
                adapted = lora.adapt(self.backbone, stage.lora, self.adapted)
                parts["text"] = self.backbone.text
        if self.makes == "sieve":
            self.adapted, adapted = adapted or self.adapted, None
        return nn.ModuleDict(parts), partial(loss_of, self.backbone, self.sieve), partial(lora.merge, adapted)

    def _data(self, stage: Stage, number: int) -> tuple[Dataset[Any], Callable[[], dict[str, float]]]:
        seed = self.recipe.seed
        if stage.task in ("towers", "sharpen"):
            return self._shown(stage), dict
        if stage.task == "views":
            data = self.recipe.data
            pictures = (
                drawn_clips(seed, stage)
                if data.train is None
                else own_clips(read_asked(data.train, data.media)[0], data, stage, self.backbone.resolution)
            )
            return Views(stage, seed, pictures, self.backbone.resolution), dict
        source, valid = self.sources()
        draws = Draws(source, stage, seed, number, world().num_processes)
        return draws, partial(self._check, stage, source, valid)

    def _shown(self, stage: Stage) -> Batches:
        """With what sounds, in task towers; in task sharpen other clips, and only what is seen."""
        both = stage.task == "towers"
        return Batches(stage, self.recipe.seed + (0 if both else OTHER), self.backbone.resolution, sound=both)

    def sources(self) -> tuple[Supply, Supply | None]:
        """Clips to train on, and others to check on; read once for as long as the encoders stay as they are."""
        data, folder, on, mark = self.recipe.data, self.out / BANK, self.backbone, encoders_mark(self.backbone)
        if self.read is not None and self.read[0] == mark:
            return self.read[1:]
        if data.train is None:
            held, clips = (Reader(folder, one.seed, one.names(on)) for one in self._sets())
            held.draw(np.random.default_rng(0), 1)  # waits until it is there
            self.read = mark, clips, held
        else:
            with world().main_process_first():
                valid = None if data.valid is None else read_clips(on, data, data.valid, folder, self.base)
                self.read = mark, read_clips(on, data, data.train, folder, self.base), valid
        return self.read[1:]

    def _check(self, stage: Stage, source: Supply, valid: Supply | None) -> dict[str, float]:
        """Figures on clips that are not trained on: from all tokens if the decoder learns, and through the sieve."""
        found: dict[str, float] = {"clips": len(source)} if stage.task == "answers" else {}
        if valid is None:
            return found
        for keep in CHECKED if stage.task in SIEVED else ():
            tried = accuracy(self.backbone, valid, stage.batch, self.sieve, keep)
            found |= {f"keep_{keep:g}": tried["all"], f"keep_{keep:g}_loss": tried["valid_loss"]}
        return found | (accuracy(self.backbone, valid, stage.batch) if "decoder" in stage.learns else {})

    def _save(self, folder: Path) -> None:
        """Write the model or sieve, whole or not at all, and point OUT/model or OUT/sieve at it."""
        if world().is_main_process and not folder.exists():
            part, link = folder.with_name(f"{folder.name}.tmp"), self.out / folder.name
            if self.makes == "model":
                save(EchoingPixels(self.backbone, self.sieve), part)
            else:
                assert self.sieve is not None
                save_sieve(self.sieve, part, self.backbone, self.adapted)
            part.rename(folder)
            point(link, folder)
        world().wait_for_everyone()


def _made_here(product: Path) -> bool:
    """Whether OUT/model or OUT/sieve is of an earlier run: a link to, or a copy of, one that a stage made."""
    return product.is_symlink() or any(product.parent.glob(f"*/{product.name}"))


def _product(recipe: Recipe) -> str:
    return "model" if recipe.quant == "none" else "sieve"


def point(link: Path, folder: Path) -> None:
    """Have `link` lead to a folder beside it; a copy where links need rights that the user lacks, as on Windows."""
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
    else:
        shutil.rmtree(link)
    try:
        link.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
    except OSError:
        shutil.copytree(folder, link)


def train_model(recipe: Recipe, out: Path, stages: tuple[str, ...] = ()) -> Path:
    """Train, resuming from what OUT holds; returns OUT/model, which `load` reads, or OUT where there is none yet.

    Of a quantized model it is OUT/sieve, which `load` takes as `sieve`.

    `stages`: names of the recipe's, and `bank`; all if empty. A complete stage is only read. `bank` may run beside the
    stages after it in a process of its own; they then learn from the clips made so far.
    """
    order: list[str] = [stage.name for stage in recipe.stage]
    learning = [i for i, stage in enumerate(recipe.stage) if stage.task not in LOOKING]
    if learning:
        order.insert(learning[0], BANK)  # as soon as the towers are what they will be
    for name in stages:
        if name not in order:
            raise OptionError(f"Unknown stage {name!r}.", f"Known stages: {', '.join(order)}.")
    chosen = set(stages or order)
    if recipe.log == "tensorboard":
        check_extra("tensorboard", "log = 'tensorboard'")
    if any(stage.lora for stage in recipe.stage if stage.name in chosen):
        lora.check_lora()
    made = out / _product(recipe)
    if (out.exists() and not out.is_dir()) or (made.exists() and not _made_here(made)):
        taken = made if out.is_dir() else out
        raise DataError(f"{taken} is there already, and no training made it.", "Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    world()  # before anything is put on a device
    run = Run(recipe, out, *start(recipe))
    numbered = {stage.name: (stage, number) for number, stage in enumerate(recipe.stage, 1)}
    filled = looked = False  # `looked`: the encoders learned once more after that
    for name in order[: max(order.index(name) for name in chosen) + 1]:
        if name == BANK:
            filled = True
            if name in chosen:
                run.fill()
            continue
        stage, number = numbered[name]
        if stage.task in LOOKING:
            looked = filled
        elif looked and name in chosen:
            run.fill()
        run.stage(stage, number, train=name in chosen)
    return out / run.makes if (out / run.makes).exists() else out
