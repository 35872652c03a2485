"""Makes a folder of SyncClips that `ep synth` had no part in: media files, `questions.jsonl` and `properties.jsonl`.

`properties.jsonl` says how each clip was made (codecs, noise, background, take of every event), so that errors can be
split by it. Needs numpy, Pillow and PyAV; the sounds, when `--sounds` does not hold them yet, also fluidsynth with a
General MIDI soundfont and espeak-ng. Sprites: the folder `assets` of the npm package @lobehub/fluent-emoji-3d 1.1.0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import wave
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]
Rng = np.random.Generator

RATE = 48000  # of the cached sounds and of the mix
OBJECTS = {
    "cat": "1f431", "dog": "1f436", "horse": "1f434", "cow": "1f42e", "lion": "1f981", "elephant": "1f418",
    "penguin": "1f427", "fish": "1f41f", "car": "1f697", "bus": "1f68c", "bicycle": "1f6b2",
    "airplane": "2708-fe0f", "rocket": "1f680", "boat": "26f5", "apple": "1f34e", "banana": "1f34c",
    "pizza": "1f355", "cake": "1f382", "house": "1f3e0", "tree": "1f332", "sunflower": "1f33b", "umbrella": "2614",
    "clock": "23f0", "balloon": "1f388",
}  # fmt: skip
PROGRAMS = {  # General MIDI program, lowest and highest key, may play chords
    "piano": (0, 38, 94, True), "marimba": (12, 48, 86, True), "bell": (14, 57, 79, True), "organ": (19, 40, 84, True),
    "guitar": (24, 41, 76, True), "violin": (40, 56, 94, False), "harp": (46, 40, 92, True),
    "trumpet": (56, 54, 81, False), "flute": (73, 61, 93, False), "whistle": (78, 66, 94, False),
    "drum": (-1, 38, 50, False),
    "telephone": (124, 55, 67, False), "helicopter": (125, 55, 67, False), "applause": (126, 54, 68, False),
}  # fmt: skip
SOUNDS = list(PROGRAMS)
EFFECTS = ("telephone", "helicopter", "applause")
DRUMS = (38, 40, 41, 43, 45, 47, 48, 50)  # snares and toms
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LANGS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5", "+linda", "+adam")
CORNERS = ["top left", "top right", "bottom left", "bottom right"]
COUNTS = WORDS[:5]
TAKES = 20
SIDES = (128, 144, 160, 180, 192, 216, 240, 270, 288, 320, 360)
ASPECTS = (9 / 16, 2 / 3, 3 / 4, 4 / 5, 1.0, 5 / 4, 4 / 3, 3 / 2, 16 / 9)
FRAME_RATES = ("8", "10", "12", "12.5", "15", "16", "20", "24000/1001", "24", "25", "30000/1001", "30")
VIDEO = {"h264": "libx264", "vp9": "libvpx-vp9", "mpeg4": "mpeg4"}
AUDIO = {"aac": "aac", "opus": "libopus", "mp3": "libmp3lame"}


# --- the sounds, rendered once ---------------------------------------------------------------------------------------


def draw_notes(name: str, style: str, rng: Rng) -> list[tuple[float, float, int, int]]:
    """Start s, length s, key and velocity of each note of one take."""
    _, low, high, _ = PROGRAMS[name]
    loud = int(rng.integers(55, 121))
    if name == "drum":
        if style == "hit":
            return [(0.0, 0.4, int(rng.choice(DRUMS)), loud)]
        step, count = float(rng.uniform(0.06, 0.25)), int(rng.integers(3, 9))
        keys = [int(rng.choice(DRUMS))] * count if style == "roll" else [int(k) for k in rng.choice(DRUMS, count)]
        return [(i * step, step, key, min(127, loud + int(rng.integers(-10, 11)))) for i, key in enumerate(keys)]
    if name in EFFECTS:
        return [(0.0, 2.5, int(rng.integers(low, high + 1)), loud)]
    root = int(rng.integers(low, high - 11))
    if style == "note":
        return [(0.0, float(rng.uniform(0.4, 2.0)), int(rng.integers(low, high + 1)), loud)]
    if style == "chord":
        shape = [(0, 4, 7), (0, 3, 7), (0, 7), (0, 5, 9), (0, 4, 7, 11), (0, 12)][int(rng.integers(6))]
        length = float(rng.uniform(0.5, 1.8))
        return [(0.0, length, root + step, loud) for step in shape]
    count, step = int(rng.integers(2, 7)), float(rng.uniform(0.12, 0.4))
    scale = (0, 2, 4, 5, 7, 9, 11, 12) if rng.random() < 0.6 else (0, 3, 5, 7, 10, 12)
    keys = [root + int(rng.choice(scale)) for _ in range(count)]
    if style == "arpeggio":
        keys = [root + k for k in (0, 4, 7, 12, 7, 4)[:count]]
    elif style == "repeat":
        keys = [root] * count
    return [(i * step, step * float(rng.uniform(0.6, 1.1)), key, loud) for i, key in enumerate(keys)]


def midi(takes: list[list[tuple[float, float, int, int]]], program: int, spacing: float) -> bytes:
    """A MIDI file that plays the takes one after another, `spacing` seconds apart; 960 ticks a second."""
    channel, events = (9 if program < 0 else 0), []
    for index, notes in enumerate(takes):
        for start, length, key, velocity in notes:
            at = index * spacing + start
            events.append((round(at * 960), bytes([0x90 | channel, key, velocity])))
            events.append((round((at + length) * 960) - 1, bytes([0x80 | channel, key, 64])))
    events.append((round(len(takes) * spacing * 960), bytes([0xB0 | channel, 123, 0])))
    body, now = b"" if program < 0 else b"\0" + bytes([0xC0, program]), 0
    for tick, message in sorted(events):
        delta, digits = tick - now, [(tick - now) & 127]
        while delta := delta >> 7:
            digits.insert(0, (delta & 127) | 128)
        body, now = body + bytes(digits) + message, tick
    body += b"\0\xff\x2f\0"
    return b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + len(body).to_bytes(4, "big") + body


def read_wave(path: Path) -> Floats:
    with wave.open(str(path), "rb") as file:
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64) / 32768
        data, rate = data.reshape(-1, file.getnchannels()).mean(axis=1), file.getframerate()
    if rate == RATE:
        return data
    spectrum, size = np.fft.rfft(data), round(len(data) * RATE / rate)
    wide = np.zeros(size // 2 + 1, complex)
    wide[: len(spectrum)] = spectrum[: len(wide)]
    return np.fft.irfft(wide, size) * (size / len(data))


def write_wave(path: Path, data: Floats) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.clip(data, -1, 1) * 32767).astype("<i2").tobytes())


def trim(data: Floats, longest: float) -> Floats:
    """From the first sample above 1 % of the peak to the last above 2 %, at most `longest` s; peak 0.9."""
    data = data / max(1e-9, float(np.abs(data).max())) * 0.9
    first = max(0, int(np.argmax(np.abs(data) > 0.009)) - 48)
    data = data[first : first + round(longest * RATE)]
    return data[: int(np.flatnonzero(np.abs(data) > 0.018)[-1]) + 480]


def make_sounds(folder: Path, soundfont: str) -> None:
    """Render the takes of every sound and word into `folder`, with takes.json that says what each is."""
    rng, takes = np.random.default_rng(20), {}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        score, sheet = Path(scratch, "a.mid"), Path(scratch, "a.wav")
        for name, (program, _, _, chords) in PROGRAMS.items():
            styles = ["note", "note", "phrase", "arpeggio", "repeat"] + ["chord"] * (2 * chords)
            styles = ["hit", "roll", "fill"] if name == "drum" else ["held"] if name in EFFECTS else styles
            drawn = [(style, draw_notes(name, style, rng)) for style in (str(rng.choice(styles)) for _ in range(TAKES))]
            for wet in (0, 1):
                part = drawn[wet::2]
                score.write_bytes(midi([notes for _, notes in part], program, 6.0))
                command = ["fluidsynth", "-niq", "-g", "0.7", "-r", str(RATE), "-R", str(wet), "-C", str(wet)]
                subprocess.run([*command, "-F", str(sheet), soundfont, str(score)], check=True, capture_output=True)
                data = read_wave(sheet)
                for index, (style, notes) in enumerate(part):
                    file = f"{name}_{2 * index + wet:02d}.wav"
                    begin = round((index * 6.0 - (0.02 if index else 0)) * RATE)
                    write_wave(folder / file, trim(data[begin : begin + 5 * RATE], 2.5))
                    takes[file] = {"style": style, "keys": [n[2] for n in notes], "velocity": notes[0][3], "wet": wet}
        for word in WORDS:
            for index in range(TAKES):
                voice = str(rng.choice(LANGS)) + str(rng.choice(VARIANTS))
                speed, pitch = int(rng.integers(100, 216)), int(rng.integers(20, 86))
                command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(sheet), word]
                subprocess.run(command, check=True, capture_output=True)
                file = f"{word}_{index:02d}.wav"
                write_wave(folder / file, trim(read_wave(sheet), 2.0))
                takes[file] = {"style": "word", "voice": voice, "speed": speed, "pitch": pitch}
    (folder / "takes.json").write_text(json.dumps(takes, indent=1) + "\n")


# --- what happens in a clip ------------------------------------------------------------------------------------------


@dataclass
class Event:
    what: str
    start: float
    end: float
    corner: str = ""
    props: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"what": self.what, "start": round(self.start, 4), "end": round(self.end, 4)}
        return {**row, "corner": self.corner} if self.corner else row


@dataclass
class Clip:
    regime: str
    length: float
    rate: Fraction
    size: tuple[int, int]
    objects: list[Event]
    heard: list[Event]  # sounds and words
    props: dict[str, Any]


def place_objects(count: int, length: float, rate: Fraction, rng: Rng) -> list[Event]:
    names = [str(name) for name in rng.permutation(list(OBJECTS))[:count]]
    while True:
        spans = []
        for _ in names:
            lasts = float(rng.uniform(1.05, max(1.3, length * rng.uniform(0.3, 0.9))))
            start = 0.0 if rng.random() < 0.15 else float(rng.uniform(0, max(0.01, length - lasts)))
            first = int(np.ceil(start * rate))
            spans.append((first, min(int(length * rate), first + int(np.ceil(lasts * rate)))))
        spans.sort()
        times = [(a / float(rate), b / float(rate)) for a, b in spans]
        if any(b - a < 1 for a, b in times) or any(y[0] - x[0] < 0.75 for x, y in pairwise(times)):
            continue
        if all(sum(a <= moment < b for a, b in times) <= 2 for moment, _ in times):
            break
    events: list[Event] = []
    for name, (start, end) in zip(names, times, strict=True):
        taken = [e.corner for e in events if e.end > start]
        events.append(Event(name, start, end, str(rng.choice([c for c in CORNERS if c not in taken]))))
    return events


def place_heard(count: int, length: float, takes: dict[str, Any], folder: Path, rng: Rng) -> list[Event]:
    again, words = rng.random() < 0.35, float(rng.choice([0.15, 0.3, 0.5]))
    names: list[str] = []
    for _ in range(count):
        old = [name for name in names if name in SOUNDS]
        fresh = rng.choice(WORDS) if rng.random() < words else rng.choice(SOUNDS)
        names.append(str(rng.choice(old)) if again and old and rng.random() < 0.6 else str(fresh))
    while True:
        events, longest = [], min(2.0, 1.1 * length / count)
        for name in names:
            file = str(rng.choice([file for file in takes if file.rsplit("_", 1)[0] == name]))
            whole = len(read_wave(folder / file)) / RATE
            lasts = whole
            if name in SOUNDS:
                top = max(0.5, min(whole, longest))
                lasts = top if rng.random() < 0.5 else float(rng.uniform(0.5, top))
            start = float(rng.uniform(0.03, length - lasts - 0.05))
            gain = float(rng.uniform(-5, 4))
            events.append(Event(name, start, start + lasts, props={"take": file, "gain": gain, **takes[file]}))
        events.sort(key=lambda e: e.start)
        pairs = list(pairwise(events))
        if all(y.start >= x.end + 0.05 and y.start - x.start >= 0.75 for x, y in pairs):
            return events


def plan(regime: str, takes: dict[str, Any], folder: Path, rng: Rng) -> Clip:
    rate = Fraction(str(rng.choice(FRAME_RATES)))
    length = int(rng.uniform(4, 10) * rate) / float(rate)
    side, aspect = int(rng.choice(SIDES)), float(rng.choice(ASPECTS))
    long = int(side * max(aspect, 1 / aspect) / 2) * 2
    size = (side, long) if aspect < 1 else (long, side)
    container = str(rng.choice(["mp4", "webm", "mkv"], p=[0.45, 0.2, 0.35]))
    video = "vp9" if container == "webm" else str(rng.choice(list(VIDEO)))
    audio = "opus" if container == "webm" else str(rng.choice(list(AUDIO)))
    props: dict[str, Any] = {
        "container": container, "video": video, "audio": audio,
        "bits_per_pixel": float(np.exp(rng.uniform(-3.5, -1.2))),
        "audio_rate": 48000 if audio == "opus" else int(rng.choice([22050, 44100, 48000])),
        "stereo": bool(rng.random() < 0.5), "audio_kbits": int(rng.choice([32, 48, 64, 96, 128, 160])),
        "noise": str(rng.choice(["white", "pink", "brown", "hum", "crowd", "wind"])), "snr": float(rng.uniform(5, 30)),
        "background": str(rng.choice(["plain", "linear", "radial", "texture", "stripes", "shapes", "static"])),
        "grain": float(rng.choice([0, rng.uniform(1, 14)])), "drift": float(rng.choice([0, rng.uniform(0.03, 0.25)])),
    }  # fmt: skip
    objects: list[Event] = []
    heard: list[Event] = []
    if regime == "listen":
        props["drift"] = 0.0
        if rng.random() < 0.35:
            props |= {"background": "black", "grain": 0.0}
        if rng.random() < 0.6:
            name = str(rng.choice(list(OBJECTS)))
            objects = [Event(name, 0.0, length, str(rng.choice(CORNERS)))]
    else:
        objects = place_objects(int(rng.integers(1 if regime == "balanced" else 2, 5)), length, rate, rng)
    if regime == "watch":
        props |= {"audio": "none"} if rng.random() < 0.35 else {}
    else:
        heard = place_heard(int(rng.integers(1 if regime == "balanced" else 2, 5)), length, takes, folder, rng)
    for event in objects:
        motion = "still" if regime == "listen" else str(rng.choice(["linear", "circle", "sway"]))
        event.props = {"size": float(rng.uniform(0.25, 0.45)), "motion": motion, "fade": bool(rng.random() < 0.25)}
        event.props |= {"flip": bool(rng.random() < 0.25), "turn": float(rng.choice([0, rng.uniform(-12, 12)]))}
    return Clip(regime, length, rate, size, objects, heard, props)


# --- the picture -----------------------------------------------------------------------------------------------------


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
    return colours[0] + (colours[1] - colours[0]) * ramp[..., None]


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
    """Where the top left of the object is at each moment, as a part of the room (x, y) it has in its quadrant."""
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
    return np.asarray(room - np.abs((begin + way) % (2 * room + 1e-6) - room))  # bounces off the sides


def frames(clip: Clip, sprites: Path, rng: Rng) -> list[Pixels]:
    width, height = clip.size
    side, count, rate = min(clip.size), round(clip.length * clip.rate), float(clip.rate)
    still = np.clip(background(clip.props["background"], clip.size, rng), 0, 255)
    layers: list[tuple[Event, Floats, Floats, int]] = []
    for event in clip.objects:
        image = sprite(sprites / f"{OBJECTS[event.what]}.webp", round(event.props["size"] * side), event)
        first, last = round(event.start * rate), round(event.end * rate)
        room = np.maximum([width // 2 - image.shape[1], height // 2 - image.shape[0]], 0).astype(float)
        path = track(event, room, np.arange(last - first) / rate, side, rng)
        path += [width / 2 * ("right" in event.corner), height / 2 * ("bottom" in event.corner)]
        layers.append((event, image, path, first))
    grains = [rng.normal(0, clip.props["grain"], still.shape) for _ in range(1 if clip.regime == "listen" else 4)]
    wave_rate, phase, result = rng.uniform(0.05, 0.5), rng.uniform(0, 6), []
    for index in range(count):
        picture = still.copy()
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


# --- the sound track -------------------------------------------------------------------------------------------------


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
    for event in clip.heard:
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
    stereo += floor * np.stack([noise(clip.props["noise"], size, rng)] * 2)
    return stereo * min(float(rng.uniform(0.5, 1.5)), 0.97 / float(np.abs(stereo).max()))


def write(path: Path, clip: Clip, pictures: list[Pixels], sound: Floats | None) -> None:
    props, options = clip.props, {"h264": {"preset": "veryfast"}, "vp9": {"deadline": "realtime", "cpu-used": "7"}}
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as file:
        video = file.add_stream(VIDEO[props["video"]], rate=clip.rate, options=options.get(props["video"], {}))
        video.width, video.height = clip.size
        video.pix_fmt, video.thread_count = "yuv420p", 1
        video.bit_rate = int(max(40000, clip.size[0] * clip.size[1] * clip.rate * props["bits_per_pixel"]))
        if sound is not None:
            layout = "stereo" if props["stereo"] else "mono"
            audio = file.add_stream(AUDIO[props["audio"]], rate=props["audio_rate"], layout=layout)
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


# --- the questions ---------------------------------------------------------------------------------------------------


def only(candidates: list[Event], inside: bool, span: Event) -> str | None:
    """The one candidate that shares at least 80 % of the interval, if none of the others shares as much as 20 %."""
    shares = []
    for event in candidates:
        common = min(event.end, span.end) - max(event.start, span.start)
        whole = event if inside else span
        shares.append(max(0.0, common) / (whole.end - whole.start))
    good = [e for e, share in zip(candidates, shares, strict=True) if share >= 0.8]
    return good[0].what if len(good) == 1 and sum(share >= 0.2 for share in shares) == 1 else None


def questions(clip: Clip, rng: Rng) -> dict[str, list[tuple[str, str]]]:
    """For each kind that the clip allows, its questions with their answers, in the order in which to ask them."""
    objects, sounds = clip.objects, [e for e in clip.heard if e.what in SOUNDS]
    words, names = [e for e in clip.heard if e.what in WORDS], [e.what for e in clip.heard if e.what in SOUNDS]
    once, seen = [e for e in sounds if names.count(e.what) == 1], [e.what for e in objects]
    found: dict[str, list[tuple[str, str]]] = {}

    def balanced(yes: list[str], no: list[str]) -> list[tuple[str, str]]:
        chosen = [(text, answer) for texts, answer in ((yes, "yes"), (no, "no")) for text in rng.permutation(texts)[:1]]
        return [chosen[int(rng.integers(2))]] if len(chosen) == 2 else []

    if len(objects) > 1:
        found["first_object"] = [("Which object appears first?", min(objects, key=lambda e: e.start).what)]
        found["last_object"] = [("Which object appears last?", max(objects, key=lambda e: e.start).what)]
    if len(set(names)) > 1:
        found["first_sound"] = [("Which sound is heard first?", sounds[0].what)]
        found["last_sound"] = [("Which sound is heard last?", sounds[-1].what)]
    at = [(e.what, only(objects, False, e)) for e in once]
    found["object_at_sound"] = [(f"Which object is visible when the {what} plays?", a) for what, a in at if a]
    found["sound_with_object"], found["word_with_object"] = [], []
    for event in objects:
        if answer := only(sounds, True, event):
            found["sound_with_object"].append((f"Which sound plays while the {event.what} is visible?", answer))
        if answer := only(words, True, event):
            found["word_with_object"].append((f"Which number is spoken while the {event.what} is visible?", answer))
    if sounds:
        absent = [name for name in SOUNDS if name not in names]
        amounts = sorted({0, *(names.count(name) for name in names)})
        amount = int(rng.choice(amounts))
        asked = str(rng.choice([name for name in SOUNDS if names.count(name) == amount]))
        found["count_sound"] = [(f"How many times does the {asked} play?", COUNTS[amount])]
        heard = [[f"Is the {name} heard?" for name in part] for part in (sorted(set(names)), absent)]
        found["exists_sound"] = balanced(heard[0], heard[1])
    pairs = [(o, s) for o in objects for s in once if abs(o.start - s.start) >= 0.75]
    order = [[f"Does the {o.what} appear before the {s.what} plays?" for o, s in pairs if (o.start < s.start) is b]
             for b in (True, False)]  # fmt: skip
    found["order"] = balanced(order[0], order[1])
    found["exists_object"] = balanced(
        [f"Does the {name} appear?" for name in seen],
        [f"Does the {name} appear?" for name in OBJECTS if name not in seen],
    )
    found["where"] = [(f"In which corner is the {e.what}?", e.corner) for e in objects]
    if len(words) == 1:
        found["word"] = [("Which number is spoken?", words[0].what)]
    return {kind: [rows[i] for i in rng.permutation(len(rows))] for kind, rows in found.items() if rows}


def options(kind: str) -> list[str]:
    if kind in ("first_object", "last_object", "object_at_sound"):
        return list(OBJECTS)
    if kind in ("first_sound", "last_sound", "sound_with_object"):
        return SOUNDS
    return {"count_sound": COUNTS, "where": CORNERS, "word": WORDS, "word_with_object": WORDS}.get(kind, ["yes", "no"])


def ask(clip: Clip, count: int, rng: Rng) -> list[tuple[str, str, str]]:
    """Kind, question and answer: every kind once before any comes again."""
    result: list[tuple[str, str, str]] = []
    found = questions(clip, rng)
    while found and len(result) < count:
        for kind in rng.permutation(list(found))[: count - len(result)]:
            result.append((str(kind), *found[kind].pop()))
        found = {kind: rows for kind, rows in found.items() if rows}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sprites", type=Path, required=True, help="folder with one webp per code point")
    parser.add_argument("--sounds", type=Path, required=True, help="folder of the rendered sounds, filled if empty")
    parser.add_argument("--soundfont", help="General MIDI .sf2, needed to fill --sounds")
    args = parser.parse_args()
    if not (args.sounds / "takes.json").exists():
        if not args.soundfont:
            parser.error("--sounds is empty: name the --soundfont to render them from")
        make_sounds(args.sounds, args.soundfont)
    takes = json.loads((args.sounds / "takes.json").read_text())
    (args.out_dir / "clips").mkdir(parents=True, exist_ok=True)
    lines, notes = [], []
    for index in range(args.clips):
        rng = np.random.default_rng([args.seed, index])
        clip = plan(("balanced", "watch", "listen")[index % 3], takes, args.sounds, rng)
        media = f"clips/{index + 1:06d}.{clip.props['container']}"
        sound = None if clip.props["audio"] == "none" else mix(clip, args.sounds, rng)
        write(args.out_dir / media, clip, frames(clip, args.sprites, rng), sound)
        events = [event.row() for event in sorted(clip.objects + clip.heard, key=lambda e: e.start)]
        for number, (kind, question, answer) in enumerate(ask(clip, 3, rng), 1):
            row = {
                "id": f"{index + 1:06d}-{number}",
                "media": media,
                "question": question,
                "answer": answer,
                "kind": kind,
            }
            lines.append(json.dumps({**row, "regime": clip.regime, "options": options(kind), "events": events}))
        props = [{**event.row(), **event.props} for event in clip.objects + clip.heard]
        about = {"size": clip.size, "rate": float(clip.rate), "length": clip.length, "regime": clip.regime}
        notes.append(json.dumps({"media": media, **about, **clip.props, "events": props}))
        print(f"{index + 1}/{args.clips} {media}", flush=True)
    (args.out_dir / "questions.jsonl").write_text("\n".join(lines) + "\n")
    (args.out_dir / "properties.jsonl").write_text("\n".join(notes) + "\n")


if __name__ == "__main__":
    main()
