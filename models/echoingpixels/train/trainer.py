"""One stage on transformers' Trainer: schedule, figures, checkpoints, resuming. Knows nothing about what is learned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from .log import Log
from .recipe import Stage

Loss = Callable[[Any], tuple[Tensor, dict[str, float]]]
Check = Callable[[], dict[str, float]]
BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
LOWEST = 0.02  # share of the rate that is left at the end


class Learner(nn.Module):
    """The parts that a stage trains, and the loss of what a step draws. Only weights that learn are saved and read.

    The parts are the model's own modules and the loss calls them inside `forward`, so whoever wraps or shards this
    module (DDP, FSDP) wraps or shards the model.
    """

    def __init__(self, parts: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.parts = parts
        self.loss = loss
        self.seen: dict[str, list[float]] = {}
        self.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_miss_frozen)  # type: ignore[no-untyped-call]

    def forward(self, draw: Any = None, check: Check | None = None) -> dict[str, Any]:
        """A draw's loss, whose figures are noted; or the figures of a check, made where sharded weights are at hand."""
        if check is not None:
            return check()
        value, figures = self.loss(draw)
        for name, figure in {"loss": float(value.detach()), **figures}.items():
            self.seen.setdefault(name, []).append(figure)
        return {"loss": value}

    def means(self) -> dict[str, float]:
        """Mean figures since the last call."""
        means = {name: sum(values) / len(values) for name, values in self.seen.items()}
        self.seen = {}
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


class Record(TrainerCallback):  # type: ignore[misc]
    """Writes a row of figures with every checkpoint, the first process's, and says when to make one."""

    def __init__(self, learner: Learner, stage: Stage, log: Log, check: Check) -> None:
        self.learner, self.stage, self.log, self.check = learner, stage, log, check
        self.began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        spent = state.log_history[-1]["seconds"] if state.log_history else 0.0
        self.began = time.monotonic() - spent
        if state.is_world_process_zero:
            self.log.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        step = state.global_step
        if step % self.stage.save_every == 0 or step == self.stage.steps:
            spent = time.monotonic() - self.began
            row = {"step": step, "seconds": round(spent), **self.learner.means(), **self.learner(check=self.check)}
            if state.is_world_process_zero:
                self.log.write(row)
                print(self.stage.name, " ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
            state.log_history.append({**row, "seconds": time.monotonic() - self.began})  # saved with the checkpoint
            control.should_save = True
        return control


def rate(stage: Stage, step: int) -> float:
    """The share of the learning rate at a step: up, steady, then down as a cosine."""
    warm_up, steady = max(1, int(stage.warm_up * stage.steps)), int(stage.steady * stage.steps)
    if step < steady:
        return min(1.0, (step + 1) / warm_up)
    past = min(1.0, (step - steady) / max(1, stage.steps - steady))
    return LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * past))


class Teacher(Trainer):  # type: ignore[misc]
    """The Trainer with a stage's optimizer and schedule, which sharded training takes in no other way."""

    def __init__(self, stage: Stage, **said: Any) -> None:
        self.stage = stage
        super().__init__(**said)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over what learns."""
        weights = [weight for weight in (model or self.model).parameters() if weight.requires_grad]
        stage = self.stage
        self.optimizer = torch.optim.AdamW(weights, lr=stage.lr, weight_decay=stage.weight_decay, betas=BETAS)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The stage's rate, step by step."""
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: rate(self.stage, step)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler


def teach(
    learner: Learner,
    draws: Dataset[Any],
    stage: Stage,
    seed: int,
    folder: Path,
    log: Log,
    check: Check,
    saved: Path | None = None,
    workers: int = 0,
) -> None:
    """Train in place by AdamW, from the checkpoint `saved` on if there is one.

    `draws[i]` is what the i-th loss is made of, `accumulate` of them a step, in order, and that of each process where
    there are several. Checkpoints go to `folder`; `check()` adds figures to their rows.
    """
    trainer = Teacher(
        stage,
        model=learner,
        args=_arguments(stage, seed, folder, workers),
        data_collator=_only,
        train_dataset=draws,
        callbacks=[Record(learner, stage, log, check)],
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
        save_strategy="no",  # Record says when
        save_total_limit=1,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several are for several processes, never copies in one
    return arguments


def _only(items: list[Any]) -> dict[str, Any]:
    """The batch of one that the Trainer asks for, as the learner takes it."""
    return {"draw": items[0]}
