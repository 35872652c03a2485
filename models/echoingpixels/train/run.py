"""Runs the stages of a recipe in order and saves the model after each. A stage resumes from its last checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ..backbones.qwen_omni import QwenOmni
from ..checkpoints.fingerprint import encoders_mark, identity_of
from ..checkpoints.loading import new_sieve
from ..checkpoints.sieve_io import save_sieve
from ..errors import DataError, OptionError
from ..from_pretrained import load, save
from ..inputs.positions import check_sections
from ..model import EchoingPixels
from ..reducers.cs2 import Sieve, SieveOptions
from . import checkpoint, lora
from .answers import accuracy, loss_of
from .clips import Clips, read_clips
from .draws import Draws
from .examples import Supply
from .recipe import BANK, Recipe, Stage
from .trainer import Check, Learner, Loss, Output, check_extra, is_sharded, teach, world

SIEVED = ("distil", "sieve")  # tasks with a sieve
CHECKED = (0.2, 0.05)  # keep ratios at which a sieve is scored while it trains
SAME = ("layers", "form", "sections", "tau", "bidirectional", "question")  # options of both a stage and a sieve


@dataclass
class Run:
    """A recipe in training: the model so far, and the folder of the results.

    `read` holds the clips with the mark of the encoders that made their features; `adapted` the adapters of a quantized
    decoder, which are never merged; `base` the mark of the model that the recipe starts from.
    """

    recipe: Recipe
    out: Path
    backbone: QwenOmni = field(init=False)
    sieve: Sieve | None = field(init=False)
    read: tuple[str, Supply, Supply | None] | None = None
    adapted: Any = None
    base: str = field(init=False)

    def __post_init__(self) -> None:
        self.start()
        own = identity_of(self.backbone, self.backbone.name)
        self.base = f"{own.weights} {own.layers} {encoders_mark(self.backbone)} {self.recipe.quant}"

    @staticmethod
    def order(recipe: Recipe) -> list[str]:
        """The names of the steps: the bank, then the stages."""
        return [BANK, *(stage.name for stage in recipe.stage)]

    @staticmethod
    def product(recipe: Recipe) -> str:
        """The result of a stage: a `model`, or a `sieve` for a quantized model, whose weights do not change."""
        return "model" if recipe.quant == "none" else "sieve"

    def start(self) -> None:
        """Load the model that the recipe starts from, with its sieve if it has one."""
        recipe = self.recipe
        assert recipe.model is not None
        size, every = recipe.data.max_pixels, {"reuse": None, "encoder_keep": None}  # features of every token
        model = load(recipe.model, max_pixels=size, quant=recipe.quant, **every)
        assert isinstance(model.backbone, QwenOmni)
        model.backbone.train(recipe.checkpointing)
        self.backbone, self.sieve = model.backbone, model.sieve

    def stage(self, stage: Stage, number: int, train: bool) -> None:
        """Train the stage to its end, or only read it where it is complete. Without `train`, DataError if it is not."""
        torch.manual_seed(self.recipe.seed + number)
        folder = self.out / stage.name
        with world().main_process_first():
            saved = checkpoint.last(folder)
        stage = self._counted(stage)
        complete = checkpoint.step_of(saved) >= stage.steps
        if not (complete or train):
            raise DataError(f"Stage {stage.name!r} is not complete in {self.out}.", "Run it first, or all stages.")
        modules, loss, end = self.parts(stage)
        learner = Learner(modules, loss)
        product = self.product(self.recipe)
        if saved is not None:
            checkpoint.read(learner, saved)  # the Trainer would ignore weights that do not fit
        if not complete:
            if world().is_main_process:
                shutil.rmtree(folder / product, ignore_errors=True)
            draws, check = self.inputs(stage, number)
            output = Output(self.out, self.recipe.log)
            teach(learner, draws, stage, self.recipe.seed, output, check, saved, self.workers(stage))
            if is_sharded(learner):
                del learner, modules, loss, end
                return self._restart(number)
        end()
        self._save(folder / product)

    def _restart(self, number: int) -> None:
        """Load the model and the stages so far: shards cannot be joined in place."""
        self.start()
        for before, stage in enumerate(self.recipe.stage[:number], 1):
            self.stage(stage, before, train=False)

    def _counted(self, stage: Stage) -> Stage:
        """The stage with the steps of its epochs."""
        if stage.steps:
            return stage
        source, _ = self.sources()
        assert isinstance(source, Clips), "SyncClips have no epochs"
        return replace(stage, steps=stage.steps_of(len(source.pairs()), world().num_processes))

    def workers(self, stage: Stage) -> int:
        """Processes that prepare inputs."""
        return 0

    def fill(self) -> None:
        """Encode the clips that the bank does not hold yet."""
        self.sources()

    def parts(self, stage: Stage) -> tuple[nn.Module, Loss, Callable[[], None]]:
        """The modules that the stage trains, its loss, and its end; all other modules are frozen."""
        thinker = self.backbone.thinker.requires_grad_(False)
        parts: dict[str, nn.Module] = {}
        adapted, dtype = None, getattr(torch, stage.precision)
        if stage.task in SIEVED:
            self.sieve = sieve_of(self.backbone, self.sieve, stage, self.new_options())
            parts["sieve"] = self.sieve.to(dtype).requires_grad_(True)
        if "decoder" in stage.learns:
            if stage.lora is None:
                parts["text"] = self.backbone.text.to(dtype).requires_grad_(True)
                parts["head"] = thinker.lm_head.to(dtype).requires_grad_(True)
            else:
                adapted = lora.adapt(self.backbone, stage.lora, self.adapted)
                parts["text"] = self.backbone.text
        if self.product(self.recipe) == "sieve":
            self.adapted, adapted = adapted or self.adapted, None
        return nn.ModuleDict(parts), partial(loss_of, self.backbone, self.sieve), partial(lora.merge, adapted)

    def new_options(self) -> dict[str, Any]:
        """Options of a new sieve that no stage names."""
        return {}

    def inputs(self, stage: Stage, number: int) -> tuple[Dataset[Any], Check]:
        """The inputs of each step, and the figures on held-out clips."""
        source, valid = self.sources()
        draws = Draws(source, stage, self.recipe.seed, number, world().num_processes)
        return draws, partial(self._check, stage, source, valid)

    def sources(self) -> tuple[Supply, Supply | None]:
        """Clips to train on, and held-out clips; read once for as long as the encoders do not change."""
        mark = encoders_mark(self.backbone)
        if self.read is None or self.read[0] != mark:
            self.read = mark, *self.read_sources()
        return self.read[1:]

    def read_sources(self) -> tuple[Supply, Supply | None]:
        """Read the question files, and encode their clips."""
        data, folder, on = self.recipe.data, self.out / BANK, self.backbone
        assert data.train is not None
        with world().main_process_first():  # the others find the features on disk
            valid = None if data.valid is None else read_clips(on, data, data.valid, folder, self.base)
            return read_clips(on, data, data.train, folder, self.base), valid

    def _check(self, stage: Stage, source: Supply, valid: Supply | None) -> dict[str, float]:
        """Figures on held-out clips: with all tokens if the decoder learns, and through the sieve."""
        found: dict[str, float] = {"clips": len(source)} if stage.task == "answers" else {}
        if valid is None:
            return found
        for keep in CHECKED if stage.task in SIEVED else ():
            scored = accuracy(self.backbone, valid, stage.batch, self.sieve, stage.reducer, keep)
            found |= {f"keep_{keep:g}": scored["all"], f"keep_{keep:g}_loss": scored["valid_loss"]}
        return found | (accuracy(self.backbone, valid, stage.batch) if "decoder" in stage.learns else {})

    def _save(self, folder: Path) -> None:
        """Write the model or sieve, whole or not at all, and link OUT/model or OUT/sieve to it."""
        if world().is_main_process and not folder.exists():
            part, link = folder.with_name(f"{folder.name}.tmp"), self.out / folder.name
            if folder.name == "model":
                save(EchoingPixels(self.backbone, self.sieve), part)
            else:
                assert self.sieve is not None
                save_sieve(self.sieve, part, self.backbone, self.adapted)
            part.rename(folder)
            point(link, folder)
        world().wait_for_everyone()


def sieve_of(backbone: QwenOmni, before: Sieve | None, stage: Stage, new: dict[str, Any] | None = None) -> Sieve:
    """The stage's sieve: `before` with the options that the stage changes, or a new one with options `new`."""
    options = dict(new or {})
    if before is not None:
        options = asdict(before.options)
    options |= {name: getattr(stage, name) for name in SAME if getattr(stage, name) is not None}
    if stage.gate is not None:
        options["gumbel"] = stage.gate == "gumbel"
    chosen = SieveOptions(**options)
    if before is not None and chosen.layers != before.options.layers:
        has = f"the sieve that it continues has {before.options.layers}"
        raise DataError(f"Stage {stage.name!r} has layers = {chosen.layers}, and {has}.", "Leave layers out.")
    if stage.gate == "soft" and chosen.form == "fused":
        raise DataError(f"Stage {stage.name!r} has a soft gate and a fused sieve.", 'Set form = "extractive".')
    if chosen.sections is not None:
        backbone.set_sections(check_sections(chosen.sections, backbone.shape.head_size // 2))
    if before is None:
        return new_sieve(backbone, chosen).to(backbone.device)
    sieve = Sieve(backbone, chosen).to(backbone.device)
    sieve.load_state_dict(before.state_dict())
    return sieve


def _made_here(product: Path) -> bool:
    """Whether OUT/model or OUT/sieve is the result of an earlier run: a link to that of a stage, or a copy of it."""
    return product.is_symlink() or any(product.parent.glob(f"*/{product.name}"))


def point(link: Path, folder: Path) -> None:
    """Link to a folder beside it, or copy it where links need rights that the user lacks, as on Windows."""
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
    else:
        shutil.rmtree(link)
    try:
        link.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
    except OSError:
        shutil.copytree(folder, link)


def check_stages(stages: Sequence[str], known: Sequence[str]) -> None:
    """OptionError for a name that is neither a stage of the recipe nor `bank`."""
    for name in stages:
        if name not in known:
            raise OptionError(f"Unknown stage {name!r}.", f"Known stages: {', '.join(known)}.")


def train_model(recipe: Recipe, out: Path, stages: tuple[str, ...] = (), kind: type[Run] = Run) -> Path:
    """Train, resuming from OUT; returns OUT/model, which `load` reads, or OUT/sieve for a quantized model.

    Returns OUT where no stage is complete. `stages` names stages of the recipe, and `bank`; all if empty. A complete
    stage is only read. `bank` may run beside the stages after it in a process of its own.
    """
    order = kind.order(recipe)
    check_stages(stages, order)
    chosen = set(stages or order)
    if recipe.log == "tensorboard":
        check_extra("tensorboard", "log = 'tensorboard'")
    if any(stage.lora for stage in recipe.stage if stage.name in chosen):
        lora.check_lora()
    made = out / kind.product(recipe)
    if (out.exists() and not out.is_dir()) or (made.exists() and not _made_here(made)):
        taken = made if out.is_dir() else out
        raise DataError(f"{taken} exists, and no training made it.", "Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    world()  # before anything is put on a device
    run = kind(recipe, out)
    numbered = {stage.name: (stage, number) for number, stage in enumerate(recipe.stage, 1)}
    for name in order[: max(order.index(name) for name in chosen) + 1]:
        if name in numbered:
            run.stage(*numbered[name], train=name in chosen)
        elif name in chosen:
            run.fill()
    return made if made.exists() else out
