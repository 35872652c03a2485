"""Task views: the vision tower learns to make of parts, and of pictures at a quarter of the pixels, what it made of the
whole, so that encoding less costs little. What it makes of the whole is held where it was.

No answers are needed: the target is the tower as it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..backbones.encoders import encode_cells
from ..backbones.qwen_omni import QwenOmni
from ..datasets.questions import Row
from ..errors import DataError, EpError
from ..inputs import patches as frames
from ..media import read_clip
from ..options import MediaOptions
from ..synth.plan import plan
from ..synth.sample import lossy, scene_of
from .recipe import Data, Stage
from .towers import MAX_SIDE, SAMPLED_FPS

TRIES = 20  # clips that are drawn for one that can be read
LEAST = 0.05  # share of the cells that a part has
WHOLE_WEIGHT = 4.0  # that the whole is seen as before matters most: all else is trained on it
SHARP = 4.0  # of the softmax by which a coarse cell stands for the one of its four that differs most from the rest

Pictures = Callable[[int, np.random.Generator], np.ndarray[Any, Any]]
View = tuple[Tensor, tuple[int, int, int]]  # patches (P, 1176) and their grid (T, H, W)


class Views(Dataset[list[dict[str, Any]]]):
    """Temporal steps of clips, as they are and coarsely, and which cells are a part. Item i is always the same."""

    def __init__(self, stage: Stage, seed: int, pictures: Pictures, resolution: frames.Resolution) -> None:
        self.stage, self.seed, self.pictures, self.resolution = stage, seed, pictures, resolution

    def __len__(self) -> int:
        return self.stage.steps * self.stage.accumulate

    def __getitem__(self, item: int) -> list[dict[str, Any]]:
        per = self.stage.batch
        return [self._view(item * per + i) for i in range(per)]

    def _view(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index, 11])
        seen = self.pictures(index, rng)
        height, width = seen.shape[1:3]
        size = self.resolution.size(height, width)
        whole = frames.patches(seen, size)
        steps, rows, columns = whole[1][0], size[0] // frames.FACTOR, size[1] // frames.FACTOR
        small = frames.patches(seen, coarse_size((rows, columns)))
        return {"whole": whole, "coarse": small, "part": _part(rng, steps, rows, columns)}


def _part(rng: np.random.Generator, steps: int, rows: int, columns: int) -> Tensor:
    """Some cells (Nv,) bool: single ones or, as in a second look, squares of 2 x 2 coarse cells; never none."""
    share = max(LEAST, rng.uniform())
    side = 1 if rng.uniform() < 0.5 else 2 * SIDE
    drawn = rng.uniform(size=(steps, -(-rows // side), -(-columns // side))) < share
    cells = drawn.repeat(side, 1).repeat(side, 2)[:, :rows, :columns].reshape(-1)
    cells[rng.integers(len(cells))] = True
    return torch.from_numpy(np.ascontiguousarray(cells))


def drawn_clips(seed: int, stage: Stage) -> Pictures:
    """Moments of ever new SyncClips clips."""

    def pictures(index: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        timeline = plan(seed, index)
        scene, quality = scene_of(timeline, MAX_SIDE), int(rng.integers(20, 95))
        starts = rng.uniform(0, timeline.duration - 1 / SAMPLED_FPS, stage.moments if timeline.of("object") else 1)
        return np.stack([lossy(scene.frame(start + t), quality) for start in starts for t in (0, 1 / SAMPLED_FPS)])

    return pictures


def own_clips(rows: Sequence[Row], data: Data, stage: Stage, resolution: frames.Resolution) -> Pictures:
    """Moments of one's own clips, each read anew when it is drawn. One that cannot be read is named, and another drawn.

    DataError after TRIES of these.
    """
    parts = sorted({row.clip for row in rows}, key=str)
    size = resolution.size  # as they are read to be answered from, and no larger
    whole = MediaOptions(fps=data.fps, max_frames=data.max_frames, audio=False, frame_size=size)

    def pictures(_: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        for _ in range(TRIES):
            clip, start, end = parts[int(rng.integers(len(parts)))]
            try:
                read = read_clip(clip, whole, start=start, end=end).frames
            except EpError as error:
                print(f"left out: {error.message}", flush=True)
                continue
            if len(read):
                pairs = range(0, max(1, len(read) - 1), frames.STEP)
                chosen = rng.choice(len(pairs), min(stage.moments, len(pairs)), replace=False)
                return np.concatenate([read[pairs[i] : pairs[i] + frames.STEP] for i in sorted(chosen)])
        raise DataError(f"{TRIES} clips drawn one after another have no picture to read.", "Mend the question file.")

    return pictures


class Seeing(nn.Module):
    """The vision tower, and what it was."""

    def __init__(self, backbone: QwenOmni) -> None:
        super().__init__()
        self.visual = backbone.thinker.model.visual
        self.before = deepcopy(self.visual).requires_grad_(False)

    def loss(self, views: list[dict[str, Any]]) -> tuple[Tensor, dict[str, float]]:
        """Squared error of parts, coarse pictures and wholes, as a share of the features' own square."""
        each = [self._errors(**view) for view in views]
        mean = {name: torch.stack([errors[name] for errors in each]).mean() for name in each[0]}
        total = WHOLE_WEIGHT * mean["whole"] + mean["part"] + mean["coarse"]
        return total, {name: float(error.detach()) for name, error in mean.items()}

    def _errors(self, whole: View, coarse: View, part: Tensor) -> dict[str, Tensor]:
        patches, grid = whole
        every = torch.ones_like(part)
        with torch.no_grad():
            target = encode_cells(self.before, patches, grid, every).float()  # (Nv, D)
            small = covering(target.view(grid[0], grid[1] // frames.MERGE, grid[2] // frames.MERGE, -1))
        everywhere = torch.ones(len(small), dtype=torch.bool)
        made = {
            "whole": (encode_cells(self.visual, patches, grid, every), target),
            "part": (encode_cells(self.visual, patches, grid, part), target[part.to(target.device)]),
            "coarse": (encode_cells(self.visual, *coarse, everywhere), small),
        }
        scale = target.square().mean()
        return {name: (seen.float() - wanted).square().mean() / scale for name, (seen, wanted) in made.items()}


def covering(fine: Tensor) -> Tensor:
    """What coarse cells should be, (T * R * C, D), of fine ones (T, rows, columns, D).

    Near to the one of the four under each that differs most from the clip's median.
    """
    steps, rows, columns, width = fine.shape
    down, across = -(-rows // SIDE), -(-columns // SIDE)
    edged = F.pad(fine.permute(0, 3, 1, 2), (0, columns % SIDE, 0, rows % SIDE), mode="replicate")
    four = edged.view(steps, width, down, SIDE, across, SIDE).permute(0, 2, 4, 3, 5, 1).reshape(-1, SIDE**2, width)
    news = (four - fine.flatten(0, 2).median(0).values).norm(dim=-1)  # (T * R * C, 4)
    share = torch.softmax(SHARP * news / news.mean().clamp(min=torch.finfo(news.dtype).tiny), -1)
    covered: Tensor = (share[..., None] * four).sum(1)
    return covered
