"""Draws the surroundings of a `busy` clip: shots of a panned field, drifting shapes and a sound bed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .takes import Rng

TEXTURES = ("leaves", "mosaic", "strokes", "clouds", "waves")
PALETTES = ("wide", "close", "ramp", "grey")
BEDS = ("band", "drone", "babble")
PAN = (0.02, 0.15)  # of the short side a second
ZOOM = 0.03  # of the scale a second, in or out
RADIUS = (0.05, 0.12)  # of a shape, of the short side
ABOVE_BED = (3.0, 10.0)  # dB, of every sound and word
BED_GAIN = -6.5  # dB, in the unit of an event's gain: the events keep the levels of the other regimes
SHOT = 1.2  # s, the shortest


@dataclass(frozen=True)
class Shot:
    """Frames `first` to `last` (exclusive) of one field; speeds are shares of the short side a second."""

    texture: str
    palette: str
    first: int
    last: int
    pan: float
    heading: float  # rad
    bend: float  # rad a second
    zoom: float  # of the scale a second
    shake: float  # standard deviation, of the short side


@dataclass(frozen=True)
class Shape:
    """A flat shape; lengths are shares of the short side."""

    outline: tuple[tuple[float, float], ...]  # around the centre; the farthest point has distance 1
    radius: float
    start: tuple[float, float]  # of the frame's width and height
    speed: float
    heading: float  # rad
    turn: float  # rad a second
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Bed:
    """The kind of a bed and its level: root mean square 1, `swell` dB more and less within a `period` s."""

    kind: str
    swell: float
    period: float
    phase: float  # rad


@dataclass(frozen=True)
class Surroundings:
    shots: tuple[Shot, ...]
    shapes: tuple[Shape, ...]
    bed: Bed


def draw_shots(count: int, rate: float, rng: Rng) -> tuple[Shot, ...]:
    """Half of the clips have one shot, the others two or three of different textures; `count` frames in all."""
    amount = min(int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])), max(1, int(count / rate / SHOT)))
    spare = rng.dirichlet(np.ones(amount)) * (count - amount * SHOT * rate)
    ends = np.round(np.cumsum(spare + SHOT * rate)).astype(int)
    textures = rng.permutation(TEXTURES)
    shots, first = [], 0
    for end, texture in zip(ends.tolist(), textures, strict=False):
        shot = Shot(
            texture=str(texture),
            palette=str(rng.choice(PALETTES)),
            first=first,
            last=end,
            pan=float(rng.uniform(*PAN)),
            heading=float(rng.uniform(0, 2 * np.pi)),
            bend=float(rng.choice([0, rng.uniform(-0.4, 0.4)])),
            zoom=float(rng.choice([0, rng.uniform(-ZOOM, ZOOM)])),
            shake=float(rng.choice([0, rng.uniform(0.002, 0.008)], p=[0.6, 0.4])),
        )
        shots.append(shot)
        first = end
    return tuple(shots)


def draw_outline(rng: Rng) -> tuple[tuple[float, float], ...]:
    """An ellipse, or a polygon of 3 to 8 corners, regular or not."""
    if rng.random() < 0.35:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        points = np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.45, 1)], axis=1)
    else:
        corners = int(rng.integers(3, 9))
        step = 2 * np.pi / corners
        loose = float(rng.choice([0, 0.35]))
        angles = np.arange(corners) * step + loose * step * rng.uniform(-1, 1, corners)
        lengths = 1 - loose * rng.uniform(0, 1, corners)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (lengths / lengths.max())[:, None]
    return tuple((float(x), float(y)) for x, y in points)


def draw_shape(rng: Rng) -> Shape:
    red, green, blue = (int(value) for value in rng.integers(5, 250, 3))
    return Shape(
        outline=draw_outline(rng),
        radius=float(rng.uniform(*RADIUS)),
        start=(float(rng.uniform(0, 1)), float(rng.uniform(0, 1))),
        speed=float(rng.uniform(0.03, 0.2)),
        heading=float(rng.uniform(0, 2 * np.pi)),
        turn=float(rng.choice([-1, 1]) * rng.uniform(0.2, 2)),
        colour=(red, green, blue),
    )


def draw_surroundings(count: int, rate: float, rng: Rng) -> Surroundings:
    """Surroundings for `count` frames at `rate` Hz."""
    bed = Bed(str(rng.choice(BEDS)), float(rng.uniform(1, 4)), float(rng.uniform(3, 10)), float(rng.uniform(0, 6.28)))
    shapes = tuple(draw_shape(rng) for _ in range(int(rng.integers(2, 7))))
    return Surroundings(draw_shots(count, rate, rng), shapes, bed)
