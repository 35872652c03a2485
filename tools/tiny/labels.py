"""The object or sound of each video and audio token of a SyncClips clip, from its timeline: the encoders' targets."""

from __future__ import annotations

import torch
from torch import Tensor

from echoingpixels.inputs.positions import AUDIO_TOKENS_PER_S
from echoingpixels.synth.assets import OBJECTS, SOUNDS, WORDS
from echoingpixels.synth.render import Scene
from echoingpixels.synth.timeline import Timeline

OBJECT_CLASSES = ("", *OBJECTS)  # class 0: nothing
SOUND_CLASSES = ("", *SOUNDS, *WORDS)
SIDES = ("top", "bottom", "left", "right")
UNCLEAR = -100  # ignored by the loss
COVERED, TOUCHED = 0.35, 0.1  # share of a cell: with the object, and unclear
ONSET_S = 0.2


def objects(scene: Scene, t: float, rows: int, columns: int) -> Tensor:
    """The object in each token's cell at t seconds: (rows * columns,) int64, an index into OBJECT_CLASSES."""
    labels = torch.zeros(rows, columns, dtype=torch.long)
    top, left = torch.arange(rows)[:, None] / rows, torch.arange(columns)[None] / columns
    for event, (x0, y0, x1, y1) in scene.boxes(t):
        high = (torch.clamp(top + 1 / rows, max=y1) - torch.clamp(top, min=y0)).clamp(min=0) * rows
        wide = (torch.clamp(left + 1 / columns, max=x1) - torch.clamp(left, min=x0)).clamp(min=0) * columns
        share = high * wide  # (rows, columns) of each cell
        labels[(share > TOUCHED) & (labels == 0)] = UNCLEAR
        labels[share >= min(COVERED, float(share.max()))] = OBJECT_CLASSES.index(event.what)
    return labels.flatten()


def quadrant(rows: int, columns: int) -> Tensor:
    """The quadrant of the frame of each token: (rows * columns,) int64, row by row; unclear on the axes."""
    y, x = (torch.arange(n) + 0.5 for n in (rows, columns))
    labels = 2 * (y > rows / 2).long()[:, None] + (x > columns / 2).long()[None]
    labels[y == rows / 2] = UNCLEAR
    labels[:, x == columns / 2] = UNCLEAR
    return labels.flatten()


def sounds(timeline: Timeline, tokens: int) -> tuple[Tensor, Tensor]:
    """The sound of each audio token, an index into SOUND_CLASSES, and whether a sound begins: (tokens,) int64 each."""
    labels, onset = torch.zeros(tokens, dtype=torch.long), torch.zeros(tokens, dtype=torch.long)
    for event in timeline.events:
        if event.kind != "object":
            first, last = (round(t * AUDIO_TOKENS_PER_S) for t in (event.start, event.end))
            labels[first:last] = SOUND_CLASSES.index(event.what)
            onset[first : first + round(ONSET_S * AUDIO_TOKENS_PER_S)] = 1
    return labels, onset
