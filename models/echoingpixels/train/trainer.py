"""One stage on transformers' Trainer: schedule, logging, checkpoints, resuming, and several processes."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ..errors import ModelError
from . import checkpoint
from .optimizer import optimizer_of
from .recipe import Log, Stage

Loss = Callable[[Any], tuple[Tensor, dict[str, float]]]
Check = Callable[[], dict[str, float]]
CLIP_NORM = 1.0
LOWEST = 0.02  # share of the learning rate that remains at the end


def check_extra(package: str, what: str) -> None:
    """ModelError where an optional package of training is missing."""
    if find_spec(package) is None:
        hint = "Install it with `pip install 'echoingpixels[train]'`."
        raise ModelError(f"{what} needs the package {package}.", hint)


def world() -> Any:
    """accelerate's state: this process alone, or the processes that `accelerate launch` started, one a device."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def is_sharded(module: nn.Module) -> bool:
    """Whether the weights are sharded over several processes."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) for weight in module.parameters())


class Learner(nn.Module):
    """The parts that a stage trains, with the loss of a draw. Only weights that learn are saved and loaded.

    The parts are the model's own modules and the loss calls them inside `forward`: wrapping or sharding this module
    (DDP, FSDP) wraps or shards the model.
    """

    def __init__(self, parts: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.parts = parts
        self.loss = loss
        self.figures: dict[str, list[float]] = {}
        self.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_miss_frozen)  # type: ignore[no-untyped-call]

    def forward(self, draw: Any = None, check: Check | None = None) -> dict[str, Any]:
        """The loss of a draw, whose figures are recorded; or the figures of a check, which needs gathered weights."""
        if check is not None:
            return check()
        value, figures = self.loss(draw)
        for name, figure in {"loss": float(value.detach()), **figures}.items():
            self.figures.setdefault(name, []).append(figure)
        return {"loss": value}

    def means(self) -> dict[str, float]:
        """Mean figures since the last call."""
        means = {name: sum(values) / len(values) for name, values in self.figures.items()}
        self.figures = {}
        return means

    def learned(self) -> set[str]:
        """Names of the weights that learn."""
        return {name for name, weight in self.named_parameters() if weight.requires_grad}


def _drop_frozen(learner: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(learner, Learner)
    for name in state.keys() - {prefix + name for name in learner.learned()}:
        del state[name]


def _miss_frozen(learner: nn.Module, incompatible: Any) -> None:
    assert isinstance(learner, Learner)
    missing = learner.learned() & set(incompatible.missing_keys)
    incompatible.missing_keys[:] = sorted(missing)


def rate(stage: Stage, step: int) -> float:
    """The share of the learning rate at a step: it rises, is constant, then falls as a cosine."""
    warm_up, steady = max(1, int(stage.warm_up * stage.steps)), int(stage.steady * stage.steps)
    if step < steady:
        return min(1.0, (step + 1) / warm_up)
    past = min(1.0, (step - steady) / max(1, stage.steps - steady))
    return LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * past))


@dataclass(frozen=True)
class Output:
    """The folder of a run, and the log that the recipe asks for: OUT/STAGE.csv or OUT/tensorboard/STAGE."""

    out: Path
    log: Log

    def callbacks(self, stage: Stage, step: int) -> list[TrainerCallback]:
        """The Trainer's callbacks; rows of TensorBoard after `step`, which a killed run left, are dropped."""
        if self.log != "tensorboard" or not world().is_main_process:
            return [_LogAtCheckpoints()]
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        writer = SummaryWriter(str(self.out / "tensorboard" / stage.name), purge_step=step + 1)
        return [_LogAtCheckpoints(), TensorBoardCallback(writer)]

    def write(self, stage: Stage, history: list[dict[str, Any]]) -> None:
        """Write the Trainer's log history as a CSV file, whole or not at all."""
        if self.log != "csv":
            return
        path = self.out / f"{stage.name}.csv"
        part = path.with_suffix(".tmp")
        with part.open("w", newline="") as file:
            every = {name for row in history for name in row}  # a resumed run has them in another order
            names = dict.fromkeys(["step", "seconds", "loss", *sorted(every)])
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in history)
        part.replace(path)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _LogAtCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Has the Trainer log where it saves a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_log = control.should_save
        return control


class StageTrainer(Trainer):  # type: ignore[misc]
    """The Trainer with the optimizer, schedule and figures of a stage; sharded training needs them in the Trainer."""

    def __init__(self, stage: Stage, output: Output, check: Check, **trainer: Any) -> None:
        self.stage, self.output, self.check = stage, output, check
        self.learner: Learner = trainer["model"]
        self.began, self.earlier = time.monotonic(), None  # type: tuple[float, int | None]
        super().__init__(**trainer)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stage's optimizer over the weights that learn."""
        stage, weights = self.stage, (model or self.model).named_parameters()
        self.optimizer = optimizer_of(stage.optimizer, weights, stage.lr, stage.weight_decay)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate of the stage, step by step."""
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: rate(self.stage, step)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the stage's figures and those of held-out clips; the Trainer saves them with the checkpoint."""
        if "loss" not in logs:  # the Trainer's own summary at the end
            return
        history = self.state.log_history
        if self.earlier is None:
            self.earlier = history[-1]["seconds"] if history else 0
        logs |= {"seconds": self.earlier + round(time.monotonic() - self.began), **self.learner.means()}
        logs |= self.learner(check=self.check)
        super().log(logs, start_time)
        if self.is_world_process_zero():
            self.output.write(self.stage, history)
            row = {"step": self.state.global_step, **logs}
            print(self.stage.name, " ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)


def teach(
    learner: Learner,
    draws: Dataset[Any],
    stage: Stage,
    seed: int,
    output: Output,
    check: Check,
    saved: Path | None = None,
    workers: int = 0,
) -> None:
    """Train in place by AdamW, resuming from the checkpoint `saved` if there is one.

    `draws[i]` is the input of the i-th loss; a step uses `accumulate` of them in order, times the number of processes.
    Checkpoints go to OUT/STAGE; `check()` adds figures of held-out clips to the log.
    """
    trainer = StageTrainer(
        stage,
        output,
        check,
        model=learner,
        args=_arguments(stage, seed, output.out / stage.name, workers),
        data_collator=_only,
        train_dataset=draws,
        callbacks=output.callbacks(stage, checkpoint.step_of(saved)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if saved is None else str(saved))


def _arguments(stage: Stage, seed: int, folder: Path, workers: int) -> Any:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=1,  # an item is a whole batch
        gradient_accumulation_steps=stage.accumulate,
        train_sampling_strategy="sequential",
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=4 if workers else None,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        max_grad_norm=CLIP_NORM,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        save_steps=stage.save_every,
        save_total_limit=1,
        logging_strategy="no",  # at checkpoints, by a callback
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are for several processes, never copies in one
    return arguments


def _only(items: list[Any]) -> dict[str, Any]:
    """The batch of one item that the Trainer asks for, as the learner takes it."""
    return {"draw": items[0]}
