"""Changed cells, against loops that compare one cell at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from echoingpixels.backbones.encoders import TemporalReuse, sources

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
        last = [cell if is_new else was for cell, was, is_new in zip(step, last, new, strict=True)]
        found.append(new)
    return found


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2])
def test_cells_are_changed_where_they_differ_from_the_last_encoded_one(threshold: float) -> None:
    want = slow(patches(), threshold)
    assert {True, False} == {new for step in want[1:] for new in step}
    assert TemporalReuse(threshold).changed(patches(), GRID).tolist() == want


@pytest.mark.parametrize(("side", "windows"), [(2, [[0, 1, 3, 4], [2, 5]]), (99, [range(CELLS)])])
def test_a_window_is_encoded_whole_or_not_at_all(side: int, windows: list[list[int]]) -> None:
    pixels, last = patches().view(GRID[0], CELLS, -1), list(patches().view(GRID[0], CELLS, -1)[0])
    want = [[True] * CELLS]
    for step in pixels[1:]:
        changed = [False] * CELLS
        for window in windows:
            if any(float((step[i] - last[i]).abs().mean()) > 0.2 for i in window):
                for i in window:
                    changed[i], last[i] = True, step[i]
        want.append(changed)
    assert {True, False} == {new for step in want[1:] for new in step}
    assert TemporalReuse(0.2, side).changed(patches(), GRID).tolist() == want


def test_without_a_threshold_every_cell_of_a_still_clip_is_changed() -> None:
    still = patches()[: 4 * CELLS].repeat(GRID[0], 1)
    assert bool(TemporalReuse(None).changed(still, GRID).all())
    assert TemporalReuse(0.0).changed(still, GRID).sum() == CELLS


def test_a_slow_change_counts_once_it_is_large() -> None:
    slow_change = torch.arange(GRID[0]).repeat_interleave(4 * CELLS)[:, None] * torch.full((1, 1176), 0.04)
    changed = TemporalReuse(0.1).changed(slow_change, GRID)
    assert changed.all(1).tolist() == [True, False, False, True, False]
    assert not changed[[1, 2, 4]].any()


@pytest.mark.parametrize("first", [1, 3])
def test_steps_in_two_parts_are_compared_as_in_one(first: int) -> None:
    whole, parts = TemporalReuse(0.1).changed(patches(), GRID), TemporalReuse(0.1)
    cut = first * 4 * CELLS
    made = [
        parts.changed(patches()[:cut], (first, *GRID[1:])),
        parts.changed(patches()[cut:], (GRID[0] - first, *GRID[1:])),
    ]
    assert torch.equal(torch.cat(made), whole)


def test_comparing_leaves_the_pixels_unchanged() -> None:
    pixels = patches()
    TemporalReuse(0.1).changed(pixels, GRID)
    assert torch.equal(pixels, patches())


def test_each_cell_has_the_row_last_encoded_at_its_place() -> None:
    changed = torch.rand(7, CELLS, generator=torch.Generator().manual_seed(2)) < 0.4
    rows, last, made = sources(changed), list(range(CELLS)), CELLS
    for step, new in enumerate(changed.tolist()):
        for cell in range(CELLS):
            if new[cell]:
                last[cell], made = made, made + 1
        assert rows[step].tolist() == last
