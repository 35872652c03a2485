"""Runs the recipes for quantized models completely, on a random model of Qwen2.5-Omni's layout and SyncClips.

    python -m tools.train_recipes OUT

Each runs twice, once killed and resumed. Its saved sieve then answers questions. Prints the results.
"""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from echoingpixels.from_pretrained import load, save
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions
from echoingpixels.synth.dataset import generate
from echoingpixels.train import checkpoint
from echoingpixels.train.answers import loss_of
from echoingpixels.train.draws import Draws
from echoingpixels.train.recipe import read_recipe
from echoingpixels.train.run import Run
from tools.tiny.build import build_backbone
from tools.tiny.recipe import Sizes

RECIPES = Path(__file__).parent.parent / "recipes"
SIZES = Sizes(width=512, layers=8, heads=4, kv_heads=2, mlp=1536, rope_theta=1e6, sections=(16, 24, 24))
TRIED = 8
EP = "import sys; from epcli.main import main; main(sys.argv[1:])"


def main(
    out: Annotated[Path, typer.Argument(help="An empty folder.")],
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 40,
    clips: Annotated[int, typer.Option(help="SyncClips to learn from.")] = 24,
    recipes: Annotated[str, typer.Option(help="Names of recipes, comma-separated.")] = "plugin-3b,qlora-3b",
) -> None:
    """Make a model and clips, run each recipe, and check its results."""
    torch.manual_seed(0)
    save(EchoingPixels(build_backbone(SIZES, "random")), out / "base")
    data = generate(out / "data", clips, 5)
    unanswered = [{k: v for k, v in json.loads(row).items() if k != "answer"} for row in data.read_text().splitlines()]
    (out / "data" / "unanswered.jsonl").write_text("\n".join(map(json.dumps, unanswered)))
    for name in recipes.split(","):
        _try(name, out, steps)


def _try(name: str, out: Path, steps: int) -> None:
    recipe = _written(name, out, steps)
    began = time.monotonic()
    subprocess.run([*_ep(), "train", recipe, "--out", out / name], check=True, stdout=sys.stderr)
    spent = time.monotonic() - began
    (stage,) = read_recipe(recipe).stage
    _killed(recipe, out / f"{name}-killed", stage.name, stage.save_every)
    rows, again = (_figures(folder / f"{stage.name}.csv") for folder in (out / name, out / f"{name}-killed"))
    print(f"{name}: {steps} steps in {spent:.0f} s; killed and resumed, the same figures: {rows == again}")
    for row in rows:
        print("   ", *(f"{key} {value}" for key, value in row.items()))
    before, after = (_loss(recipe, out / name, trained) for trained in (False, True))
    print(f"    mean loss of {TRIED} questions: {before:.4f} before, {after:.4f} after")
    answers = _same_answers(recipe, out / name, out / "data")
    print("    the saved sieve answers as the trained sieve:", answers, flush=True)


def _written(name: str, out: Path, steps: int) -> Path:
    """The recipe with another model, other data and fewer steps."""
    text = (RECIPES / f"{name}.toml").read_text()
    file = "unanswered.jsonl" if name.startswith("plugin") else "questions.jsonl"
    changes = {"model": f'"{out.resolve() / "base"}"', "train": f'"data/{file}"', "media": '"data"', "valid": None}
    changes |= {"max_pixels": "12544", "max_length": "400", "answer_tokens": "4", "accumulate": "1"}
    changes |= {"epochs": f"1\nsteps = {steps}", "lr": "3e-4", "save_every": str(max(1, steps // 8))}
    for key, value in changes.items():
        text = re.sub(rf"^{key} = .*\n", "" if value is None else f"{key} = {value}\n", text, flags=re.MULTILINE)
    path = out / f"{name}.toml"
    path.write_text(text)
    return path


def _ep() -> list[str]:
    return [sys.executable, "-c", EP]


def _killed(recipe: Path, out: Path, stage: str, save_every: int) -> None:
    """Kill a run after its fourth checkpoint, and resume it."""
    running = subprocess.Popen([*_ep(), "train", recipe, "--out", out], stdout=sys.stderr)
    while running.poll() is None and checkpoint.step_of(_whole(out / stage)) < 4 * save_every:
        time.sleep(0.2)
    running.kill()
    assert running.wait() == -signal.SIGKILL, "the run ended before it was killed"
    subprocess.run([*_ep(), "train", recipe, "--out", out], check=True, stdout=sys.stderr)


def _whole(folder: Path) -> Path | None:
    """The newest complete checkpoint; unlike checkpoint.last it removes none, since one may be in writing."""
    whole = [path for path in folder.glob("checkpoint-*") if checkpoint.step_of(path)]
    return max(whole, key=checkpoint.step_of, default=None)


def _figures(path: Path) -> list[dict[str, str]]:
    """The rows of a log, without the seconds."""
    with path.open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@torch.no_grad()
def _loss(recipe: Path, out: Path, trained: bool) -> float:
    """The mean loss over the stage's first draws, with the untrained or the trained sieve."""
    wanted = read_recipe(recipe)
    (stage,) = wanted.stage
    run = Run(wanted, out)
    torch.manual_seed(wanted.seed + 1)
    if trained:
        run.stage(stage, 1, train=False)
    else:
        run.parts(stage)
    source, _ = run.sources()
    losses = []
    for item in range(TRIED):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(float(loss_of(run.backbone, run.sieve, Draws(source, stage, wanted.seed, 1)[item])[0]))
    return sum(losses) / TRIED


def _same_answers(recipe: Path, out: Path, data: Path) -> bool:
    """Whether model and sieve from their files answer as those of the run, whose sieve is rounded as in its file."""
    wanted = read_recipe(recipe)
    run = Run(wanted, out)
    run.stage(wanted.stage[0], 1, train=False)
    assert run.sieve is not None
    run.backbone.text.eval()
    mine = EchoingPixels(run.backbone, run.sieve.to(torch.bfloat16).to(run.backbone.dtype).eval())
    assert wanted.model is not None
    loaded = load(wanted.model, quant=wanted.quant, sieve=str(out / "sieve"), max_pixels=wanted.data.max_pixels)
    answers = []
    for one in (mine, loaded):
        clips = [read_clip(path, frame_size=one.frame_size) for path in sorted((data / "clips").iterdir())[:4]]
        asked = [one.ask(clip, "What?", keep=0.2, generate=GenerateOptions(max_new_tokens=8)) for clip in clips]
        answers.append([(one.token_ids, one.evidence.moments) for one in asked])
    return answers[0] == answers[1]


if __name__ == "__main__":
    typer.run(main)
