"""Greedy max-min choice against a slow one, token by token, and against recorded numbers of a published function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from echoingpixels.inputs.positions import AUDIO, TEXT, VIDEO
from echoingpixels.inputs.token_stream import TokenStream, budget, pad
from echoingpixels.reducers.budget import EachWindow, OnePool
from echoingpixels.reducers.maxmin import weights
from echoingpixels.reducers.pick import MaxMin
from tests.reducers.test_reducers import rows

SEATS = Path(__file__).parents[1] / "data/seats"
STAGE1 = json.loads((SEATS / "manifest.json").read_text())["stage1"]


def kept(
    stream: TokenStream, keep: float, scores: Tensor | None = None, budget: Any = None, plain: bool = False
) -> Tensor:
    """The kept tokens (B, L) of a max-min choice."""
    budget = budget or OnePool()
    return budget.fill(MaxMin(plain).rank(stream, scores, budget, keep), stream, keep)


def slow(embeds: Tensor, k: int, weight: Tensor, audio: list[bool], floor: float = 0.0) -> list[int]:
    """The places of k tokens in the order of their choice: embeds (n, D), weights (n,)."""
    unit = F.normalize(embeds.float(), dim=-1)
    far = [[float(1 - unit[i] @ unit[j]) * float(weight[j]) for j in range(len(unit))] for i in range(len(unit))]
    least = {kind: min(-(-k * floor // 1), audio.count(kind)) for kind in (False, True)}
    chosen: list[int] = []
    while len(chosen) < k:
        near = {
            j: min(far[i][j] for i in (chosen or range(len(unit))) if i != j) if len(unit) > 1 else 0.0
            for j in range(len(unit))
            if j not in chosen
        }
        short = [j for j in near if least[audio[j]] > sum(audio[i] == audio[j] for i in chosen)]
        chosen.append(max(short or near, key=lambda j: (near[j], -j)))
    return chosen


def of_pool(stream: TokenStream, x: Tensor) -> Tensor:
    return x[0][stream.pool[0]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("keep", [0.003, 0.05, 0.3])
def test_the_choice_is_that_of_the_slow_greedy_rule(keep: float, floor: float, weighted: bool) -> None:
    for stream in rows()[:3]:
        scores = torch.randn(stream.mask.shape, generator=torch.Generator().manual_seed(4)) if weighted else None
        weight = torch.ones(stream.mask.shape) if scores is None else weights(scores, stream.pool)
        k = int(budget(stream.pool, keep))
        audio = (of_pool(stream, stream.kind) == AUDIO).tolist()
        wanted = slow(of_pool(stream, stream.embeds), k, of_pool(stream, weight), audio, floor)
        found = of_pool(stream, kept(stream, keep, scores, OnePool(modality=floor)))
        assert found.nonzero()[:, 0].tolist() == sorted(wanted)


def recorded(case: dict[str, Any]) -> tuple[TokenStream, Tensor, list[int]]:
    """A stream of a recorded case with its saliency (1, L), and the places of the tokens kept there."""
    found = load_file(SEATS / case["file"])
    video, audio = found["video"], found["audio"]
    n, each = len(video), case["tokens_per_grid"]
    kind = torch.tensor([VIDEO] * n + [TEXT] + [AUDIO] * len(audio))
    stream = TokenStream(
        embeds=torch.cat([video, video[:1], audio])[None],
        positions=torch.zeros(3, 1, len(kind), dtype=torch.int64),
        kind=kind[None],
        time=torch.cat([torch.arange(n) // each * 1.0, torch.tensor([torch.nan]), torch.arange(len(audio)) / 25])[None],
        cell=torch.zeros(1, len(kind), 2, dtype=torch.int64),
        mask=torch.ones(1, len(kind), dtype=torch.bool),
        next_position=torch.zeros(1, dtype=torch.int64),
    )
    saliency = torch.cat([found["video_saliency"], torch.zeros(1), found["audio_saliency"]])[None]
    return stream, saliency, sorted([*found["kept_video"].tolist(), *(found["kept_audio"] + n + 1).tolist()])


@pytest.mark.parametrize("case", STAGE1, ids=lambda case: case["file"])
def test_the_choice_within_windows_is_the_published_one(case: dict[str, Any]) -> None:
    stream, saliency, wanted = recorded(case)
    budget = EachWindow(audio=case["audio_ratio"])
    found = kept(stream, case["video_ratio"], saliency, budget, plain=True)
    assert found[0].nonzero()[:, 0].tolist() == wanted
    together = pad([stream.rows([0], 30), stream])  # the last 30 tokens are audio
    both = kept(together, case["video_ratio"], saliency.expand(2, -1), budget, plain=True)
    assert both[1].nonzero()[:, 0].tolist() == wanted
    assert torch.equal(
        both[0, -30:], kept(stream.rows([0], 30), case["video_ratio"], saliency[:, -30:], budget, True)[0]
    )
