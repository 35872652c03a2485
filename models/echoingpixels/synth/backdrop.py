"""The picture of regime `busy` behind its objects: moving textured fields with flat shapes in front of them."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .timeline import Field, FlatShape, Surroundings

TEXTURES = ("leaves", "leaves", "clouds", "waves", "tiles", "lines", "overgrown")
PAN = (0.02, 0.15)  # shares of the short side a second
MOST_ZOOM = 0.03  # a second
POWER_LAW = 2.2  # exponent of the leaves' size distribution
Colour = tuple[int, int, int]


def draw_surroundings(rng: np.random.Generator, duration: float) -> Surroundings:
    """Random fields, with at most two cuts between them, and two to six shapes."""
    cuts = np.sort(rng.uniform(0.8, max(0.9, duration - 0.8), int(rng.choice(3, p=(0.6, 0.28, 0.12)))))
    fields = tuple(_field(rng, start) for start in (0.0, *cuts.tolist()))
    return Surroundings(fields, tuple(_shape(rng) for _ in range(int(rng.integers(2, 7)))))


def _field(rng: np.random.Generator, start: float) -> Field:
    speed, angle = rng.uniform(*PAN), rng.uniform(0, 2 * math.pi)
    return Field(
        texture=TEXTURES[int(rng.integers(len(TEXTURES)))],
        seed=int(rng.integers(2**31)),
        start=round(float(start), 4),
        pan=(float(speed * math.cos(angle)), float(speed * math.sin(angle))),
        zoom=float(rng.uniform(-MOST_ZOOM, MOST_ZOOM)) if rng.random() < 0.5 else 0.0,
        shake=float(rng.uniform(0.002, 0.012)) if rng.random() < 0.4 else 0.0,
        shake_hz=float(rng.uniform(0.8, 4.0)),
    )


def _shape(rng: np.random.Generator) -> FlatShape:
    speed, angle = rng.uniform(0.03, 0.25), rng.uniform(0, 2 * math.pi)
    return FlatShape(
        sides=int(rng.choice((0, 3, 4, 5, 6, 7))),
        radius=float(rng.uniform(0.05, 0.12)),
        aspect=float(rng.uniform(0.45, 1.0)),
        colour=_colour(rng, float(rng.uniform())),
        place=(float(rng.uniform()), float(rng.uniform())),
        drift=(float(speed * math.cos(angle)), float(speed * math.sin(angle))),
        turn=float(rng.uniform(-120, 120)),
    )


@dataclass(frozen=True)
class Backdrop:
    """The surroundings drawn for a frame of width x height px; a field's picture has room for its travel."""

    surroundings: Surroundings
    duration: float
    width: int
    height: int
    pictures: tuple[Image.Image, ...]  # RGB, one for each field

    @classmethod
    def of(cls, surroundings: Surroundings, duration: float, width: int, height: int) -> Backdrop:
        """Draw the fields once; frames only move them."""
        short = min(width, height)
        pictures = []
        for number, field in enumerate(surroundings.fields):
            length = _end(surroundings, number, duration) - field.start
            grown = 1 + MOST_ZOOM * length
            rooms = [2 * field.shake + abs(pan) * length for pan in field.pan]
            sides = zip((width, height), rooms, strict=True)
            wide, high = (math.ceil(side * grown + room * short) + 2 for side, room in sides)
            pictures.append(_texture(field, (wide, high), short))
        return cls(surroundings, duration, width, height, tuple(pictures))

    def frame(self, now: float) -> Image.Image:
        """The field at `now` seconds, moved and zoomed about the frame's centre, with its shapes."""
        fields = self.surroundings.fields
        number = max(i for i, field in enumerate(fields) if field.start <= now or i == 0)
        field, picture = fields[number], self.pictures[number]
        middle = (field.start + _end(self.surroundings, number, self.duration)) / 2
        past, short = now - middle, min(self.width, self.height)
        scale = 1 - field.zoom * past  # px of the field for each px of the frame
        turns = 2 * math.pi * field.shake_hz * now
        shake = (math.sin(turns + field.seed % 7), math.sin(1.3 * turns + field.seed % 11))
        x, y = (
            size / 2 + (pan * past + field.shake * wave) * short - scale * side / 2
            for size, pan, wave, side in zip(picture.size, field.pan, shake, (self.width, self.height), strict=True)
        )
        moved = picture.transform(
            (self.width, self.height), Image.Transform.AFFINE, (scale, 0, x, 0, scale, y), Image.Resampling.BILINEAR
        )
        draw = ImageDraw.Draw(moved)
        for shape in self.surroundings.shapes:
            draw.polygon(self._outline(shape, now), fill=shape.colour)
        return moved

    def _outline(self, shape: FlatShape, now: float) -> list[tuple[float, float]]:
        """The polygon at `now` seconds; a shape that leaves the frame returns on the other side."""
        short = min(self.width, self.height)
        radius = shape.radius * short
        x, y = (
            (place * side + drift * now * short + radius) % (side + 2 * radius) - radius
            for place, drift, side in zip(shape.place, shape.drift, (self.width, self.height), strict=True)
        )
        sides, turned = shape.sides or 20, math.radians(shape.turn * now)
        along, across = math.cos(turned), math.sin(turned)
        points = []
        for corner in range(sides):
            angle = 2 * math.pi * corner / sides
            u, v = radius * math.cos(angle), radius * shape.aspect * math.sin(angle)
            points.append((x + u * along - v * across, y + u * across + v * along))
        return points


def _end(surroundings: Surroundings, number: int, duration: float) -> float:
    """The second at which a field gives way to the next."""
    fields = surroundings.fields
    return fields[number + 1].start if number + 1 < len(fields) else duration


def _colour(rng: np.random.Generator, hue: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, float(rng.beta(1.5, 1.5)), float(rng.uniform(0.15, 0.95)))
    return round(255 * red), round(255 * green), round(255 * blue)


def _palette(rng: np.random.Generator) -> list[Colour]:
    """Eight colours about one hue, or of any."""
    hue, spread = rng.uniform(), float(rng.choice((0.06, 0.2, 1.0)))
    return [_colour(rng, float(hue + spread * rng.uniform(-0.5, 0.5))) for _ in range(8)]


def _texture(field: Field, size: tuple[int, int], short: int) -> Image.Image:
    """The field's picture, (H, W) from `size`; lengths are shares of the frame's short side in px."""
    rng = np.random.default_rng(field.seed)
    colours = _palette(rng)
    if field.texture == "clouds":
        return _clouds(rng, colours, size, short)
    if field.texture == "waves":
        return _waves(rng, colours, size, short)
    picture = Image.new("RGB", size, colours[0])
    if field.texture == "overgrown":
        picture = _clouds(rng, colours, size, short)
    draw = ImageDraw.Draw(picture)
    if field.texture == "tiles":
        _tiles(rng, draw, colours, size, short)
    elif field.texture == "lines":
        _lines(rng, draw, colours, size, short)
    else:
        _leaves(rng, draw, colours, size, short, covered=0.6 if field.texture == "overgrown" else 2.5)
    return picture


def _leaves(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    colours: list[Colour],
    size: tuple[int, int],
    short: int,
    covered: float,
) -> None:
    """Dead leaves: overlapping shapes whose sizes follow a power law, until they cover the field `covered` times."""
    least, most = rng.uniform(0.015, 0.03), rng.uniform(0.15, 0.35)
    kind = int(rng.integers(3))
    n = int(min(900, covered * size[0] * size[1] / (math.pi * (1.8 * least * short) ** 2)))
    power = 1 - POWER_LAW
    sizes = (least**power + rng.uniform(size=n) * (most**power - least**power)) ** (1 / power) * short
    centres, angles = rng.uniform(size=(n, 2)) * size, rng.uniform(0, 2 * math.pi, n)
    sides = (np.full(n, 12), np.full(n, 4), rng.integers(3, 9, n))[kind]
    aspects, which = rng.uniform(0.4, 1, n), rng.integers(len(colours), size=n)
    for (x, y), radius, angle, corners, aspect, colour in zip(
        centres.tolist(), sizes.tolist(), angles.tolist(), sides.tolist(), aspects.tolist(), which.tolist(), strict=True
    ):
        steps = [2 * math.pi * corner / corners for corner in range(corners)]
        along, across = math.cos(angle) * radius, math.sin(angle) * radius
        outline = [
            (
                x + math.cos(a) * along - aspect * math.sin(a) * across,
                y + math.cos(a) * across + aspect * math.sin(a) * along,
            )
            for a in steps
        ]
        draw.polygon(outline, fill=colours[colour])


def _tiles(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, colours: list[Colour], size: tuple[int, int], short: int
) -> None:
    """Bricks or tiles in rows, with shifted joints."""
    height, aspect = rng.uniform(0.05, 0.2) * short, rng.uniform(0.6, 2.5)
    joint, shift = rng.uniform(0, 0.12), rng.uniform(0, 1)
    for row in range(math.ceil(size[1] / height)):
        x = -height * aspect * (shift * row % 1)
        while x < size[0]:
            wide = height * aspect * float(rng.uniform(0.8, 1.2))
            box = (x, row * height, x + wide * (1 - joint), (row + 1 - joint) * height)
            draw.rectangle(box, fill=colours[int(rng.integers(1, len(colours)))])
            x += wide


def _lines(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, colours: list[Colour], size: tuple[int, int], short: int
) -> None:
    """Straight and broken lines, like branches, fences or cables."""
    main, scatter = rng.uniform(0, math.pi), rng.uniform(0.05, 1.5)
    for _ in range(int(rng.integers(60, 220))):
        x, y = rng.uniform(size=2) * size
        points, angle = [(float(x), float(y))], main + scatter * rng.normal()
        for _ in range(int(rng.integers(1, 4))):
            angle += 0.4 * rng.normal()
            length = rng.uniform(0.1, 0.6) * short
            x, y = x + length * math.cos(angle), y + length * math.sin(angle)
            points.append((float(x), float(y)))
        width = max(1, round(float(rng.uniform(0.005, 0.05)) * short))
        draw.line(points, fill=colours[int(rng.integers(1, len(colours)))], width=width, joint="curve")


def _clouds(rng: np.random.Generator, colours: list[Colour], size: tuple[int, int], short: int) -> Image.Image:
    """Smooth noise of several scales, between two colours and a third for the finest scale."""
    mix = np.zeros((size[1], size[0], 1), np.float32)
    rough = float(rng.uniform(0.4, 0.9))
    for octave in range(5):
        cells = [max(2, math.ceil(side / short * 2 * 2**octave)) for side in size]
        noise = Image.fromarray(rng.integers(0, 256, (cells[1], cells[0]), dtype=np.uint8))
        grown = np.asarray(noise.resize(size, Image.Resampling.BICUBIC), np.float32)
        mix += (grown[..., None] / 255 - 0.5) * np.float32(rough**octave)
    share = np.clip(mix * np.float32(rng.uniform(0.8, 2.0)) + 0.5, 0, 1)
    low, high = (np.array(colour, np.float32) for colour in colours[:2])
    return Image.fromarray((low + share * (high - low)).astype(np.uint8))


def _waves(rng: np.random.Generator, colours: list[Colour], size: tuple[int, int], short: int) -> Image.Image:
    """Stripes or a weave: one or two sine gratings bent by a third."""
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32) / np.float32(short)
    bend = np.sin((x * rng.normal() + y * rng.normal()) * np.float32(6)) * np.float32(rng.uniform(0, 0.15))
    angle, cycles = rng.uniform(0, math.pi), rng.uniform(3, 14)
    wave = np.sin(2 * math.pi * cycles * (x * math.cos(angle) + y * math.sin(angle) + bend))
    if rng.random() < 0.5:
        wave = wave * np.sin(2 * math.pi * rng.uniform(3, 14) * (y * math.cos(angle) - x * math.sin(angle)))
    share = np.clip(wave * rng.uniform(0.5, 3) + 0.5, 0, 1).astype(np.float32)[..., None]
    low, high = (np.array(colour, np.float32) for colour in colours[:2])
    return Image.fromarray((low + share * (high - low)).astype(np.uint8))
