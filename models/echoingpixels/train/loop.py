"""The training loop every stage shares: schedule, log, checkpoints, resume. Knows nothing about what is trained."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

Loss = Callable[[int], tuple[Tensor, dict[str, float]]]
WARM_UP = 0.05  # share of the steps
STEADY = 0.6  # share of the steps at the full rate: what is learned last is learned only there (docs/log.md)
CLIP_NORM = 1.0
WEIGHT_DECAY = 0.01


def train(
    module: nn.Module,
    loss: Loss,
    steps: int,
    lr: float,
    out: Path,
    stage: str,
    save_every: int,
    check: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Train `module` by AdamW; `loss(step)` makes one batch's loss and its figures.

    The rate is steady, then falls as a cosine. Writes OUT/STAGE.pt every `save_every` steps, goes on from it when it
    is there, and appends to OUT/STAGE.csv. `check()` adds figures at every checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=lr, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    saved = out / f"{stage}.pt"
    first = 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    began = time.monotonic()
    seen: dict[str, list[float]] = {}
    for step in range(first, steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, figures = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(wanted, CLIP_NORM)
        optimizer.step()
        schedule.step()
        for name, figure in {"loss": value.item(), **figures}.items():
            seen.setdefault(name, []).append(figure)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            row = {
                "step": step + 1,
                "seconds": round(time.monotonic() - began),
                **{k: sum(v) / len(v) for k, v in seen.items()},
            }
            _log(out / f"{stage}.csv", row | (check() if check else {}))
            seen = {}
            state = {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
            }
            torch.save(state, saved.with_suffix(".tmp"))
            saved.with_suffix(".tmp").replace(saved)


def figures(logits: Tensor, labels: Tensor, name: str) -> Iterator[tuple[str, float]]:
    """Accuracy over all labelled places and over those that are not class 0."""
    right = logits.argmax(-1) == labels
    something = labels > 0
    yield name, float(right[labels >= 0].float().mean())
    if bool(something.any()):
        yield f"{name}_found", float(right[something].float().mean())


def _rate(step: int, steps: int) -> float:
    warm_up, steady = max(1, int(WARM_UP * steps)), int(STEADY * steps)
    if step < steady:
        return min(1.0, (step + 1) / warm_up)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - steady) / max(1, steps - steady))))


def _log(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(row)
        writer.writerow([f"{v:.4g}" if isinstance(v, float) else v for v in row.values()])
    print(path.stem, " ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
