"""Accuracy of reducers on the held-out clips of a training run's bank: defaults are chosen by it, not by test sets.

python -m tools.validate runs/tiny --reducer maxmin --reducer uniform --keep 0.1 --against uniform
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.evaluation.paired import Pair, difference
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.positions import AUDIO
from echoingpixels.model import EchoingPixels
from echoingpixels.reducers.registry import REDUCERS, Reducer
from echoingpixels.train.answers import answer_loss, answers_right
from echoingpixels.train.examples import Asked, Example, batch
from echoingpixels.train.recipe import BANK, read_recipe

from .tiny.bank import Reader
from .tiny.recipe import TinyRecipe
from .tiny.run import VALID_SEED, held_out
from .tiny.sample import planned

BATCH = 16
REGIMES = {"v1": ("balanced", "watch", "listen"), "busy": ("busy",), "both": ("balanced", "watch", "listen", "busy")}


@dataclass(frozen=True)
class Row:
    """One question: whether its answer was right, and the numbers of kept tokens."""

    clip: int
    regime: str
    kind: str
    right: bool
    kept: int
    audio: int
    pool: int


@torch.no_grad()
def rows(model: EchoingPixels, examples: Sequence[Example], reducer: Reducer, keep: float, most: int) -> Iterator[Row]:
    """Ask at most `most` questions of each clip, answers under teacher forcing."""
    backbone = model.backbone
    assert isinstance(backbone, QwenOmni)
    asked: Asked = [(one, (question,)) for one in examples for question in one.questions[:most]]
    asked.sort(key=lambda pair: pair[0].span.tokens)
    for first in range(0, len(asked), BATCH):
        part = asked[first : first + BATCH]
        with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
            made = batch(backbone, part).stream
        selection = reducer.choose(backbone, model.sieve, made, keep)
        with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
            taken = made.take(selection)
            _, good = answer_loss(backbone, taken)
        kept, pool = selection.keep & made.pool, made.pool
        counts = torch.stack([kept.sum(1), (kept & (made.kind == AUDIO)).sum(1), pool.sum(1)], 1).tolist()
        for (one, (question,)), right, (k, a, n) in zip(part, answers_right(taken, good), counts, strict=True):
            yield Row(one.index, planned(VALID_SEED, one.index).regime, question.kind, right, k, a, n)


def line(found: Sequence[Row], against: Sequence[Row] | None) -> str:
    """Accuracy and audio share of the kept tokens by regime, and the difference from another run."""
    cells = []
    for name, regimes in REGIMES.items():
        some = [row for row in found if row.regime in regimes]
        kept = sum(row.kept for row in some)
        cell = f"{name} {100 * sum(row.right for row in some) / len(some):5.1f}"
        cell += f" (audio {100 * sum(row.audio for row in some) / kept:2.0f} %)"
        if against is not None:
            others = [row.right for row in against if row.regime in regimes]
            pairs = (Pair(row.clip, row.right, other) for row, other in zip(some, others, strict=True))
            about = difference(pairs)
            assert about.difference is not None and about.interval is not None
            low, high = about.interval
            cell += f" {100 * about.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        cells.append(cell)
    return "  ".join(cells)


def main(
    out: Annotated[Path, typer.Argument(help="Folder of a training run with its bank.")],
    model: Annotated[str | None, typer.Option(help="Model; OUT/model by default.")] = None,
    sieve: Annotated[str | None, typer.Option(help="Sieve; the model's own by default.")] = None,
    reducer: Annotated[list[str] | None, typer.Option(help="Reducer; repeatable.")] = None,
    keep: Annotated[list[float] | None, typer.Option(help="Keep ratio; repeatable.")] = None,
    against: Annotated[str | None, typer.Option(help="Reducer to compare with.")] = None,
    recipe: Annotated[Path, typer.Option(help="The recipe of the run.")] = Path("recipes/tiny.toml"),
    most: Annotated[int, typer.Option(help="Questions per clip.")] = 8,
) -> None:
    """Print one line for each reducer and ratio."""
    loaded = load(model or str(out / "model"), sieve=sieve, device="cpu", reuse=None, encoder_keep=None)
    assert isinstance(loaded.backbone, QwenOmni)
    wanted = held_out(read_recipe(recipe, TinyRecipe))
    reader = Reader(out / BANK, wanted.seed, wanted.names(loaded.backbone))
    reader.refresh()
    ask: Callable[[str, float], list[Row]] = lambda name, ratio: list(  # noqa: E731
        rows(loaded, reader.examples, REDUCERS[name], ratio, most)
    )
    print("full", line(ask("full", 1.0), None), flush=True)
    for ratio in keep or (0.1,):
        before = None if against is None else ask(against, ratio)
        for name in reducer or ("maxmin",):
            found = ask(name, ratio)
            share = sum(row.kept for row in found) / sum(row.pool for row in found)
            print(f"{name} {ratio:g} (kept {share:.4f})", line(found, before), flush=True)


if __name__ == "__main__":
    typer.run(main)
