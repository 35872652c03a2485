"""Draws the frames of a clip, mixes its audio and writes its file."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .beds import make_bed
from .clips import AUDIO, OBJECTS, VIDEO, Clip, Event
from .fields import backdrops
from .surroundings import BED_GAIN
from .takes import RATE, SOUNDS, Floats, Rng, read_wave

Pixels = NDArray[np.uint8]


def background(kind: str, size: tuple[int, int], rng: Rng) -> Floats:
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / max(size)
    colours = rng.uniform(10, 245, (3, 3))
    if kind == "black":
        return np.zeros((height, width, 3))
    if kind in ("linear", "stripes"):
        angle = rng.uniform(0, 2 * np.pi)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        ramp = (ramp - ramp.min()) / max(1e-6, float(np.ptp(ramp)))
        if kind == "stripes":
            ramp = 0.5 + 0.5 * np.tanh(3 * np.sin(ramp * rng.uniform(20, 90)))
            colours[1] = 0.6 * colours[0] + 0.4 * colours[1]
    elif kind == "radial":
        ramp = np.clip(np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 1)), 0, 1)
    elif kind == "texture":
        ramp = np.zeros((height, width))
        for octave in range(2, 7):
            grid = Image.fromarray(rng.random((2**octave, 2**octave)).astype(np.float32))
            ramp += np.asarray(grid.resize(size, Image.Resampling.BICUBIC)) / octave
        ramp = (ramp - ramp.min()) / float(np.ptp(ramp))
    elif kind == "shapes":
        image = Image.new("RGB", size, tuple(int(v) for v in colours[0]))
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(5, 16))):
            left, top = rng.uniform(-0.2, 1, 2) * size
            right, bottom = (left, top) + rng.uniform(0.1, 0.5, 2) * max(size)
            shape = draw.ellipse if rng.random() < 0.6 else draw.rectangle
            shape((left, top, right, bottom), fill=tuple(int(v) for v in rng.uniform(10, 245, 3)))
        return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(3, 14)))), float)
    elif kind == "static":
        return np.asarray(colours[0] + rng.normal(0, rng.uniform(4, 22), (height, width, 3)))
    else:
        ramp = np.zeros((height, width))
    return np.asarray(colours[0] + (colours[1] - colours[0]) * ramp[..., None])


def sprite(path: Path, pixels: int, event: Event) -> Floats:
    image = Image.open(path).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    if event.props["flip"]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if event.props["turn"]:
        image = image.convert("RGBa").rotate(event.props["turn"], Image.Resampling.BICUBIC, expand=True).convert("RGBA")
        image = image.crop(image.getchannel("A").getbbox())
    scale = pixels / max(image.size)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(shape, Image.Resampling.LANCZOS), float)


def track(event: Event, room: Floats, seconds: Floats, side: int, rng: Rng) -> Floats:
    """The top left corner of the object at each time, px, within its room (x, y) in the quadrant."""
    speed, phase = rng.uniform(0.02, 0.09) * side, rng.uniform(0, 2 * np.pi)
    begin = rng.uniform(0, 1, 2) * room
    if event.props["motion"] == "still":
        return np.tile(begin, (len(seconds), 1))
    if event.props["motion"] == "circle":
        radius = np.minimum(room / 2, rng.uniform(0.02, 0.08) * side)
        centre = radius + rng.uniform(0, 1, 2) * (room - 2 * radius)
        angle = phase + seconds * speed / max(1.0, float(radius.max()))
        return np.asarray(centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    way = np.stack([np.cos(phase) * seconds, np.sin(phase) * seconds], axis=1) * speed
    if event.props["motion"] == "sway":
        way = np.sin(seconds[:, None] * rng.uniform(0.5, 1.5)) * [np.cos(phase), np.sin(phase)] * speed * 2
    return np.asarray(room - np.abs((begin + way) % (2 * room + 1e-6) - room))  # reflected at the edges


def frames(clip: Clip, sprites: Path, rng: Rng) -> list[Pixels]:
    width, height = clip.size
    side, count, rate = min(clip.size), round(clip.length * clip.rate), float(clip.rate)
    behind: Iterator[Floats]
    if clip.around:
        behind, shape = backdrops(clip.around, clip.size, rate, rng), (height, width, 3)
    else:
        still = np.clip(background(clip.props["background"], clip.size, rng), 0, 255)
        behind, shape = repeat(still), still.shape
    layers: list[tuple[Event, Floats, Floats, int]] = []
    for event in clip.objects:
        image = sprite(sprites / f"{OBJECTS[event.what]}.webp", round(event.props["size"] * side), event)
        first, last = round(event.start * rate), round(event.end * rate)
        room = np.maximum([width // 2 - image.shape[1], height // 2 - image.shape[0]], 0).astype(float)
        path = track(event, room, np.arange(last - first) / rate, side, rng)
        path += [width / 2 * ("right" in event.corner), height / 2 * ("bottom" in event.corner)]
        layers.append((event, image, path, first))
    grains = [rng.normal(0, clip.props["grain"], shape) for _ in range(1 if clip.regime == "listen" else 4)]
    wave_rate, phase, result = rng.uniform(0.05, 0.5), rng.uniform(0, 6), []
    for index, picture in zip(range(count), behind, strict=False):
        picture = picture.copy()
        for event, image, path, first in layers:
            if not first <= index < first + len(path):
                continue
            left, top = np.minimum(path[index - first].astype(int), [width - image.shape[1], height - image.shape[0]])
            alpha = image[..., 3:] / 255
            if event.props["fade"] and clip.regime != "listen":
                alpha = alpha * min(1.0, (index - first + 1) / (0.2 * rate), (first + len(path) - index) / (0.2 * rate))
            part = picture[top : top + image.shape[0], left : left + image.shape[1]]
            part += (image[..., :3] - part) * alpha
        picture *= 1 + clip.props["drift"] * np.sin(2 * np.pi * wave_rate * index / rate + phase)
        if clip.props["grain"]:
            grain = grains[index % len(grains)]
            picture += np.roll(grain, index * 37 % height, axis=0) if len(grains) > 1 else grain
        result.append(np.clip(picture, 0, 255).astype(np.uint8))
    return result


def noise(kind: str, size: int, rng: Rng) -> Floats:
    """Noise of root mean square 1."""
    spectrum, pitch = np.fft.rfft(rng.normal(size=size)), np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20)
    seconds = np.arange(size) / RATE
    if kind in ("pink", "brown", "wind"):
        spectrum *= pitch ** {"pink": -0.5, "brown": -1.0, "wind": -1.3}[kind]
    elif kind == "crowd":
        spectrum *= (pitch > 180) * (pitch < 4000) / (1 + (pitch / 700) ** 1.5)
    data = np.fft.irfft(spectrum, size)
    data /= data.std()
    if kind == "hum":
        mains, data = rng.choice([50, 60]), data * 0.1
        for harmonic in range(1, 8):
            data += np.sin(2 * np.pi * mains * harmonic * seconds + rng.uniform(0, 6)) * rng.uniform(0.2, 1) / harmonic
    elif kind in ("crowd", "wind"):
        knots = rng.uniform(0.4 if kind == "crowd" else 0.1, 1, 2 + int(seconds[-1] * (7 if kind == "crowd" else 2)))
        data *= np.interp(np.linspace(0, len(knots) - 1, size), np.arange(len(knots)), knots)
    return data / float(data.std())


def mix(clip: Clip, folder: Path, rng: Rng) -> Floats:
    """Two channels at RATE, peak at most 0.97."""
    size = round(clip.length * RATE)
    stereo, loudness = np.zeros((2, size)), []
    for event in clip.audio:
        data = read_wave(folder / event.props["take"])[: round((event.end - event.start) * RATE)]
        if event.what in SOUNDS:
            edge = min(len(data), round(RATE * 0.04))
            data[len(data) - edge :] *= np.linspace(1, 0, edge)
        data *= 0.1 * 10 ** (event.props["gain"] / 20) / max(1e-4, float(np.sqrt(np.mean(data**2))))
        side, begin = rng.uniform(0.25, 0.75), round(event.start * RATE)
        room = stereo[:, begin : begin + len(data)]
        room += np.outer(np.sqrt([2 * side, 2 - 2 * side]), data)[:, : room.shape[1]]
        loudness.append(float(np.mean(data**2)))
    level = np.sqrt(np.mean(loudness)) if loudness else rng.uniform(0.02, 0.15)
    floor = level * 10 ** (-clip.props["snr"] / 20)
    if clip.around:
        stereo += 0.1 * 10 ** (BED_GAIN / 20) * make_bed(clip.around.bed, size, folder, rng)
    stereo += floor * np.stack([noise(clip.props["noise"], size, rng)] * 2)
    return stereo * min(float(rng.uniform(0.5, 1.5)), 0.97 / float(np.abs(stereo).max()))


def write(path: Path, clip: Clip, pictures: list[Pixels], sound: Floats | None) -> None:
    props, options = clip.props, {"h264": {"preset": "veryfast"}, "vp9": {"deadline": "realtime", "cpu-used": "7"}}
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as file:
        video = file.add_stream(VIDEO[props["video"]], rate=clip.rate, options=options.get(props["video"], {}))
        assert isinstance(video, av.VideoStream)
        video.width, video.height = clip.size
        video.pix_fmt, video.thread_count = "yuv420p", 1
        video.bit_rate = int(max(40000, clip.size[0] * clip.size[1] * clip.rate * props["bits_per_pixel"]))
        if sound is not None:
            layout = "stereo" if props["stereo"] else "mono"
            audio = file.add_stream(AUDIO[props["audio"]], rate=props["audio_rate"], layout=layout)
            assert isinstance(audio, av.AudioStream)
            audio.bit_rate = 1000 * props["audio_kbits"]
            data = sound if props["stereo"] else sound.mean(axis=0, keepdims=True)
            for begin in range(0, data.shape[1], 4800):
                block = np.ascontiguousarray(data[:, begin : begin + 4800], np.float32)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
                file.mux(audio.encode(frame))
            file.mux(audio.encode(None))
        for picture in pictures:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode(None))
