"""Draws the picture behind the objects of `busy` clips: views on textured fields, and drifting shapes over them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from .surroundings import Shape, Shot, Surroundings
from .takes import Floats, Rng

Size = tuple[int, int]  # width, height, px
Colour = tuple[int, int, int]
FINE = 2  # fields are drawn this many times as large, for smooth edges
FINE_SHAPE = 4


def palette(kind: str, count: int, rng: Rng) -> Floats:
    """Colours (count, 3) from 0 to 255."""
    if kind == "wide":
        colours = rng.uniform(5, 250, (count, 3))
    elif kind == "grey":
        colours = rng.uniform(15, 240, (count, 1)) * rng.uniform(0.85, 1, 3)
    elif kind == "ramp":
        ends = rng.uniform(5, 250, (2, 3))
        colours = ends[0] + (ends[1] - ends[0]) * rng.uniform(0, 1, (count, 1)) + rng.normal(0, 6, (count, 3))
    else:
        light = rng.normal(0, rng.uniform(20, 45), (count, 1))
        colours = rng.uniform(50, 205, 3) + light + rng.normal(0, rng.uniform(8, 25), (count, 3))
    return np.asarray(np.clip(colours, 0, 255))


def fill(colour: Floats) -> Colour:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def leaves(draw: ImageDraw.ImageDraw, size: Size, side: float, colours: Floats, rng: Rng) -> None:
    """Dead leaves: overlapping shapes whose radii have a density that falls with the cube of the radius."""
    smallest, largest = 0.02 * side, float(rng.uniform(0.15, 0.35)) * side
    amount = int(rng.uniform(600, 1100) * max(1.0, size[0] * size[1] / side**2))
    share = rng.uniform(0, 1, amount)
    radii = (smallest**-2 - share * (smallest**-2 - largest**-2)) ** -0.5
    form = str(rng.choice(["ellipse", "polygon", "both"]))
    for radius in radii:
        centre, colour = rng.uniform(0, 1, 2) * size, fill(colours[rng.integers(len(colours))])
        angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        if form == "polygon" or (form == "both" and rng.random() < 0.5):
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 9))))
        points = np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.4, 1)], axis=1) * radius
        turn = rng.uniform(0, np.pi)
        points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + centre
        draw.polygon([(x, y) for x, y in points.tolist()], fill=colour)


def mosaic(draw: ImageDraw.ImageDraw, size: Size, side: float, colours: Floats, rng: Rng) -> None:
    """Quadrangles between the jittered points of a grid."""
    step = float(rng.uniform(0.06, 0.2)) * side
    columns, rows = int(size[0] / step) + 3, int(size[1] / step) + 3
    points = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) - 0.5
    points = (points + rng.uniform(-0.4, 0.4, points.shape)) * step
    for row in range(rows - 1):
        for column in range(columns - 1):
            corners = points[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            colour = fill(colours[rng.integers(len(colours))])
            draw.polygon([(x, y) for x, y in corners.tolist()], fill=colour)


def strokes(draw: ImageDraw.ImageDraw, size: Size, side: float, colours: Floats, rng: Rng) -> None:
    """Straight strokes around one direction, as of grass or rain."""
    heading, spread = rng.uniform(0, np.pi), rng.uniform(0.1, 1.5)
    amount = int(rng.uniform(900, 1800) * max(1.0, size[0] * size[1] / side**2))
    for _ in range(amount):
        angle, length = heading + rng.normal(0, spread), rng.uniform(0.05, 0.3) * side
        centre, way = rng.uniform(0, 1, 2) * size, np.array([np.cos(angle), np.sin(angle)]) * length / 2
        ends = [tuple(float(value) for value in point) for point in (centre - way, centre + way)]
        width = max(1, round(float(rng.uniform(0.008, 0.03)) * side))
        draw.line(ends, fill=fill(colours[rng.integers(len(colours))]), width=width)


def clouds(size: Size, side: float, colours: Floats, rng: Rng) -> Floats:
    """Noise of several scales, from a third of the short side down, mapped to three colours."""
    level = np.zeros((size[1], size[0]))
    fall = float(rng.uniform(0.5, 0.8))
    for octave in range(6):
        cell = max(2.0, side / 3 / 2**octave)
        grid = rng.normal(size=(int(size[1] / cell) + 4, int(size[0] / cell) + 4)).astype(np.float32)
        box = (1.0, 1.0, 1.0 + size[0] / cell, 1.0 + size[1] / cell)
        level += fall**octave * np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC, box))
    return coloured(level, colours)


def waves(size: Size, side: float, colours: Floats, rng: Rng) -> Floats:
    """The sum of four or more plane waves, mapped to three colours."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] * (2 * np.pi / side)
    level = np.zeros((size[1], size[0]))
    for _ in range(int(rng.integers(4, 9))):
        angle, cycles = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(3), np.log(16)))
        level += np.sin(cycles * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
    return coloured(np.tanh(level * rng.uniform(0.3, 2)), colours)


def coloured(level: Floats, colours: Floats) -> Floats:
    """Levels as colours: the least to the most common levels span the first three colours."""
    low, high = np.quantile(level, [0.02, 0.98])
    ramp = np.clip((level - low) / (high - low), 0, 1)
    return np.stack([np.interp(ramp, [0, 0.5, 1], colours[:3, channel]) for channel in range(3)], axis=-1)


def field(shot: Shot, size: Size, side: int, rng: Rng) -> Image.Image:
    """The whole field of a shot; `side` is the short side of the frame, px."""
    colours = palette(shot.palette, 3 if shot.texture in ("clouds", "waves") else int(rng.integers(4, 40)), rng)
    if shot.texture in ("clouds", "waves"):
        pixels = (clouds if shot.texture == "clouds" else waves)(size, side, colours, rng)
        return Image.fromarray(pixels.astype(np.uint8))
    image = Image.new("RGB", (size[0] * FINE, size[1] * FINE), fill(colours[0]))
    paint = {"leaves": leaves, "mosaic": mosaic, "strokes": strokes}[shot.texture]
    paint(ImageDraw.Draw(image), image.size, side * FINE, colours, rng)
    return image.reduce(FINE)


def camera(shot: Shot, side: int, rate: float, rng: Rng) -> tuple[Floats, Floats]:
    """The centre (F, 2) of the view on the field, px, and its scale (F), for every frame of the shot."""
    seconds = np.arange(shot.last - shot.first) / rate
    scale = np.exp(np.log1p(shot.zoom) * seconds)
    angle = shot.heading + shot.bend * seconds
    # On a field shown larger, the same speed in the frame covers less of the field.
    way = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (shot.pan * side / rate / scale)[:, None]
    centre = np.cumsum(way, axis=0)
    if shot.shake:
        window = np.hanning(max(3, round(0.35 * rate)) + 2)
        jitter = np.stack([np.convolve(rng.normal(size=len(seconds) + len(window) - 1), window, "valid")
                           for _ in range(2)], axis=1)  # fmt: skip
        centre = centre + jitter * shot.shake * side / np.sqrt(np.sum(window**2))
    return centre, scale


def views(shot: Shot, size: Size, rate: float, rng: Rng) -> Iterator[Image.Image]:
    """The frames of a shot without shapes; the field is just large enough for all of them."""
    side = min(size)
    centre, scale = camera(shot, side, rate, rng)
    half = np.array(size) / 2 / scale[:, None]
    low, high = (centre - half).min(axis=0) - 2, (centre + half).max(axis=0) + 2
    width, height = (int(value) for value in np.ceil(high - low))
    image = field(shot, (width, height), side, rng)
    for corner, zoom in zip(centre - half - low, scale, strict=True):
        matrix = (1 / zoom, 0, corner[0], 0, 1 / zoom, corner[1])
        yield image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def paste(picture: Image.Image, shape: Shape, seconds: float) -> None:
    """Draw a shape where it is after `seconds`; one that leaves the frame comes back on the other side."""
    side, radius = min(picture.size), shape.radius * min(picture.size)
    way = np.array([np.cos(shape.heading), np.sin(shape.heading)]) * shape.speed * side * seconds
    room = np.array(picture.size) + 2 * radius
    centre = (np.array(shape.start) * picture.size + radius + way) % room - radius
    turn = shape.turn * seconds
    points = np.array(shape.outline) @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]] * radius
    corner = np.floor(centre - radius).astype(int)
    patch = int(np.ceil(2 * radius)) + 2
    mask = Image.new("L", (patch * FINE_SHAPE, patch * FINE_SHAPE))
    outline = ((points + centre - corner) * FINE_SHAPE).tolist()
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline], fill=255)
    picture.paste(shape.colour, (int(corner[0]), int(corner[1])), mask.reduce(FINE_SHAPE))


def backdrops(around: Surroundings, size: Size, rate: float, rng: Rng) -> Iterator[Floats]:
    """Every frame of a clip (height, width, 3) without its objects, from 0 to 255."""
    for shot in around.shots:
        for index, picture in enumerate(views(shot, size, rate, rng), shot.first):
            for shape in around.shapes:
                paste(picture, shape, index / rate)
            yield np.asarray(picture, float)
