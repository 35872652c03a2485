"""Which cells are encoded again, against loops that compare one cell at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from echoingpixels.backbones.temporal_reuse import Repeats, sources

GRID = (5, 4, 6)
CELLS = 6


def patches(seed: int = 0) -> Tensor:
    """Five steps of six cells, most of which change little from step to step."""
    random = torch.Generator().manual_seed(seed)
    steps = torch.randn(GRID[0], CELLS, 4 * 1176, generator=random)
    moved = torch.rand(GRID[0], CELLS, 1, generator=random) * 0.3
    return (steps[:1] + (moved * steps).cumsum(0)).reshape(-1, 1176)


def slow(pixels: Tensor, threshold: float) -> list[list[bool]]:
    steps = pixels.view(GRID[0], CELLS, -1)
    found, last = [], list(steps[0])
    for i, step in enumerate(steps):
        new = [i == 0 or float((cell - was).abs().mean()) > threshold for cell, was in zip(step, last, strict=True)]
        last = [cell if fresh else was for cell, was, fresh in zip(step, last, new, strict=True)]
        found.append(new)
    return found


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2])
def test_cells_are_fresh_where_they_differ_from_the_last_encoded_one(threshold: float) -> None:
    want = slow(patches(), threshold)
    assert {True, False} == {new for step in want[1:] for new in step}
    assert Repeats(threshold).fresh(patches(), GRID).tolist() == want


@pytest.mark.parametrize(("side", "windows"), [(2, [[0, 1, 3, 4], [2, 5]]), (99, [range(CELLS)])])
def test_a_window_is_encoded_whole_or_not_at_all(side: int, windows: list[list[int]]) -> None:
    pixels, last = patches().view(GRID[0], CELLS, -1), list(patches().view(GRID[0], CELLS, -1)[0])
    want = [[True] * CELLS]
    for step in pixels[1:]:
        fresh = [False] * CELLS
        for window in windows:
            if any(float((step[i] - last[i]).abs().mean()) > 0.2 for i in window):
                for i in window:
                    fresh[i], last[i] = True, step[i]
        want.append(fresh)
    assert {True, False} == {new for step in want[1:] for new in step}
    assert Repeats(0.2, side).fresh(patches(), GRID).tolist() == want


def test_without_a_threshold_every_cell_is_fresh_even_of_a_still() -> None:
    still = patches()[: 4 * CELLS].repeat(GRID[0], 1)
    assert bool(Repeats(None).fresh(still, GRID).all())
    assert Repeats(0.0).fresh(still, GRID).sum() == CELLS


def test_a_change_that_creeps_is_seen_once_it_is_large() -> None:
    creeping = torch.arange(GRID[0]).repeat_interleave(4 * CELLS)[:, None] * torch.full((1, 1176), 0.04)
    fresh = Repeats(0.1).fresh(creeping, GRID)
    assert fresh.all(1).tolist() == [True, False, False, True, False]
    assert not fresh[[1, 2, 4]].any()


@pytest.mark.parametrize("first", [1, 3])
def test_steps_in_two_parts_are_judged_as_in_one(first: int) -> None:
    whole, parts = Repeats(0.1).fresh(patches(), GRID), Repeats(0.1)
    cut = first * 4 * CELLS
    made = [
        parts.fresh(patches()[:cut], (first, *GRID[1:])),
        parts.fresh(patches()[cut:], (GRID[0] - first, *GRID[1:])),
    ]
    assert torch.equal(torch.cat(made), whole)


def test_judging_leaves_the_pixels_as_they_were() -> None:
    pixels = patches()
    Repeats(0.1).fresh(pixels, GRID)
    assert torch.equal(pixels, patches())


def test_each_cell_finds_what_was_last_encoded_at_its_place() -> None:
    fresh = torch.rand(7, CELLS, generator=torch.Generator().manual_seed(2)) < 0.4
    rows, last, made = sources(fresh), list(range(CELLS)), CELLS
    for step, new in enumerate(fresh.tolist()):
        for cell in range(CELLS):
            if new[cell]:
                last[cell], made = made, made + 1
        assert rows[step].tolist() == last
