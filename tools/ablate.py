"""Trains variants of the sieve side by side, and scores them: `python tools/ablate.py --help`.

Every variant starts untrained on the same frozen decoder and takes the same steps on the same clips, with the losses of
`ep train` (tasks distil and sieve); the distillation target is computed once for all. OUT/NAME.json has the format of
`ep evaluate --json`; tools/ablations.py makes tables and a plot of them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints.sieve_io import save_sieve
from echoingpixels.datasets.questions import read_rows
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.evaluation.paired import within
from echoingpixels.from_pretrained import load
from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions, MediaOptions
from echoingpixels.reducers.cs2 import Sieve, SieveOptions
from echoingpixels.reducers.setting import Setting
from echoingpixels.train.answers import answer_loss, thinned
from echoingpixels.train.draws import Draw, Draws
from echoingpixels.train.recipe import Stage, Target
from echoingpixels.train.saliency import TARGETS, divergence
from echoingpixels.train.trainer import BETAS, CLIP_NORM, rate
from epcli.console import progress
from epcli.render.evaluation import plain
from tools.tiny.bank import Reader

RATE = {"extractive": 1e-3, "fused": 5e-4}
VARIANTS = {
    "extractive": SieveOptions(2, "extractive"),
    "extractive-1": SieveOptions(1, "extractive"),
    "extractive-4": SieveOptions(4, "extractive"),
    "extractive-causal": SieveOptions(2, "extractive", bidirectional=False),
    "extractive-blind": SieveOptions(2, "extractive", question=False),
    "fused": SieveOptions(2, "fused"),
    "fused-causal": SieveOptions(2, "fused", bidirectional=False),
    "fused-blind": SieveOptions(2, "fused", question=False),
}
UNTRAINED = "untrained"
BESIDE = {  # reducers with the same scores, or without scores
    "extractive": ("cs2", "cs2-proportional", "cs2-half", "cs2-video"),
    "fused": ("cs2", "cs2-random"),
    UNTRAINED: ("uniform", "random", "repeats", "fastv", "relevance"),
}
RATIOS = (0.2, 0.1, 0.05, 0.001)  # the last: exactly one token of some 340


def train(backbone: QwenOmni, sieves: dict[str, Sieve], draws: Draws, out: Path) -> None:
    """Train all sieves on the same draws, each with the loss of its form, and save them every 100 steps."""
    stage = draws.stage
    backbone.thinker.requires_grad_(False)
    optimizers = {
        name: torch.optim.AdamW(sieve.parameters(), RATE[sieve.options.form], BETAS, weight_decay=stage.weight_decay)
        for name, sieve in sieves.items()
    }
    began = time.monotonic()
    for step in range(stage.steps):
        draw: Draw = draws[step]
        losses = []
        with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
            stream = thinned(backbone, draw).stream
            target = TARGETS[draw.target](backbone, stream)
        for name, sieve in sieves.items():
            with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
                if sieve.options.form == "extractive":
                    loss: Tensor = divergence(sieve.shares(sieve.score(sieve.encode(stream)), stream.pool), target)
                else:
                    loss, _ = answer_loss(backbone, stream.take(sieve(stream, draw.keep)))
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(sieve.parameters(), CLIP_NORM)
            for group in optimizers[name].param_groups:
                group["lr"] = RATE[sieve.options.form] * rate(stage, step)
            optimizers[name].step()
            optimizers[name].zero_grad()
            losses.append(f"{name} {float(loss.detach()):.3f}")
        if (step + 1) % 10 == 0:
            print(step + 1, round(time.monotonic() - began), *losses, flush=True)
        if (step + 1) % 100 == 0 or step + 1 == stage.steps:
            for name, sieve in sieves.items():
                save_sieve(sieve, out / name, backbone)


def settings(name: str) -> list[Setting]:
    """The reducers and keep ratios of a variant."""
    full = [Setting("full", 1.0)] if name == UNTRAINED else []
    return full + [Setting(reducer, keep) for reducer in BESIDE.get(name, ("cs2",)) for keep in RATIOS]


def score(model: EchoingPixels, place: str, data: Path, asked: list[Setting], to: Path) -> None:
    """Answer the questions, and write the output of `ep evaluate --json`."""
    with progress("clips") as on_clip:
        runs = evaluate(model, read_rows(data), asked, MediaOptions(), GenerateOptions(32), None, on_clip)
    full = within(runs)
    written: dict[str, Any] = {"model": place, "data": str(data), "runs": [plain(run, full, {}) for run in runs]}
    to.write_text(json.dumps(written) + "\n")


def main(
    model: Annotated[str, typer.Argument(help="The model. Its own sieve is not used.")],
    bank: Annotated[Path, typer.Argument(help="OUT/bank of its training, with the clips to learn from.")],
    data: Annotated[Path, typer.Argument(help="A question file, as for `ep evaluate`.")],
    out: Annotated[Path, typer.Argument(help="Folder for the trained sieves and the scores.")],
    only: Annotated[list[str] | None, typer.Option(help="Variants; all by default.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of training; 0 scores the saved sieves.")] = 300,
    target: Annotated[Target, typer.Option(help=f"Target of extractive forms: {', '.join(TARGETS)}.")] = "agreed",
    seed: Annotated[int, typer.Option(help="Seed of the bank's clips and of the draws.")] = 1,
) -> None:
    """Train the variants, then score those without scores in OUT."""
    loaded = load(model)
    assert isinstance(loaded.backbone, QwenOmni)
    names = only or [UNTRAINED, *VARIANTS]
    torch.manual_seed(seed)
    sieves = {name: Sieve(loaded.backbone, VARIANTS[name]) for name in names if name != UNTRAINED}
    out.mkdir(parents=True, exist_ok=True)
    if steps and sieves:
        stage = Stage("ablate", "distil", steps, share=(0.5, 0.4, 1.0), steady=0.35, target=target)
        train(loaded.backbone, sieves, Draws(Reader(bank, seed), stage, seed, 1), out)
    for name in names:
        if not (out / f"{name}.json").exists():
            sieve = None if name == UNTRAINED else str(out / name)
            score(load(model, sieve=sieve), model, data, settings(name), out / f"{name}.json")


if __name__ == "__main__":
    typer.run(main)
