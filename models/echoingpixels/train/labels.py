"""What each audio and video token of a SyncClips clip shows or sounds like, from its timeline. The towers' targets."""

from __future__ import annotations

import torch
from torch import Tensor

from ..inputs.positions import AUDIO_TOKENS_PER_S
from ..synth.assets import OBJECTS, SOUNDS, WORDS
from ..synth.render import Scene
from ..synth.timeline import Timeline

SEEN = ("", *OBJECTS)  # class 0: nothing
HEARD = ("", *SOUNDS, *WORDS)
UNCLEAR = -100  # not scored
COVERED, TOUCHED = 0.35, 0.1  # share of a token's cell that an object must, or may just, cover
ONSET_S = 0.2


def seen(scene: Scene, t: float, rows: int, columns: int) -> Tensor:
    """The object in each token's cell at t seconds: (rows * columns,) int64, an index into SEEN."""
    labels = torch.zeros(rows, columns, dtype=torch.long)
    top, left = torch.arange(rows)[:, None] / rows, torch.arange(columns)[None] / columns
    for event, (x0, y0, x1, y1) in scene.boxes(t):
        high = (torch.clamp(top + 1 / rows, max=y1) - torch.clamp(top, min=y0)).clamp(min=0) * rows
        wide = (torch.clamp(left + 1 / columns, max=x1) - torch.clamp(left, min=x0)).clamp(min=0) * columns
        share = high * wide  # (rows, columns) of each cell
        labels[(share > TOUCHED) & (labels == 0)] = UNCLEAR
        labels[share >= min(COVERED, float(share.max()))] = SEEN.index(event.what)
    return labels.flatten()


def quadrant(rows: int, columns: int) -> Tensor:
    """Which quarter of the picture each token lies in: (rows * columns,) int64, row by row; unclear on the axes."""
    y, x = (torch.arange(n) + 0.5 for n in (rows, columns))
    labels = 2 * (y > rows / 2).long()[:, None] + (x > columns / 2).long()[None]
    labels[y == rows / 2] = UNCLEAR
    labels[:, x == columns / 2] = UNCLEAR
    return labels.flatten()


def heard(timeline: Timeline, tokens: int) -> tuple[Tensor, Tensor]:
    """What each audio token sounds like, an index into HEARD, and whether a sound has just begun: (tokens,) int64."""
    labels, onset = torch.zeros(tokens, dtype=torch.long), torch.zeros(tokens, dtype=torch.long)
    for event in timeline.events:
        if event.kind != "object":
            first, last = (round(t * AUDIO_TOKENS_PER_S) for t in (event.start, event.end))
            labels[first:last] = HEARD.index(event.what)
            onset[first : first + round(ONSET_S * AUDIO_TOKENS_PER_S)] = 1
    return labels, onset
