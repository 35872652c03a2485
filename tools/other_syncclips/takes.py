"""Renders the takes of every sound and word, with fluidsynth and espeak-ng."""

from __future__ import annotations

import json
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Rng = np.random.Generator

RATE = 48000  # Hz, of the cached sounds and of the mix
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
TAKES = 20


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
    """A MIDI file with the takes in sequence, `spacing` s apart; 960 ticks a second."""
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
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64) / 32768
        data, rate = np.asarray(samples.reshape(-1, file.getnchannels()).mean(axis=1)), file.getframerate()
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
    """Render the takes of every sound and word into `folder`, with their properties in takes.json."""
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
