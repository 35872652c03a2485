"""Makes the sound beds of `busy` clips, and renders the voices of their babble with espeak-ng."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from .surroundings import Bed
from .takes import LANGS, RATE, VARIANTS, Floats, Rng, read_wave, trim, write_wave

# No number and no word that sounds like one or contains one.
BABBLE = """
    river garden window paper market summer table pepper kettle ladder copper silver pocket carpet button engine
    letter valley harbour island village blanket bottle cabin candle meadow shadow lemon marble needle
    carried painted opened gathered followed remembered borrowed polished delivered forgot discovered answered
    gentle broken narrow bitter hollow yellow quiet little heavy distant careful simple ordinary
    the a this under over beside near behind and because while after slowly again never maybe really
""".split()  # noqa: SIM905 -- a list of words reads better as text
VOICES = 24  # of which a babble takes at least 4
SENTENCE = 40  # words: 12 s and more


def make_voices(folder: Path) -> None:
    """Render one long sentence of each voice into `folder`, with its properties in voices.json."""
    rng, voices = np.random.default_rng(21), {}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        sheet = Path(scratch, "a.wav")
        for index in range(VOICES):
            voice = str(rng.choice(LANGS)) + str(rng.choice(VARIANTS))
            speed, pitch = int(rng.integers(120, 200)), int(rng.integers(15, 90))
            text = " ".join(rng.choice(BABBLE, SENTENCE))
            command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(sheet), text]
            subprocess.run(command, check=True, capture_output=True)
            file = f"voice_{index:02d}.wav"
            write_wave(folder / file, trim(read_wave(sheet), 20.0))
            voices[file] = {"voice": voice, "speed": speed, "pitch": pitch, "text": text}
    (folder / "voices.json").write_text(json.dumps(voices, indent=1) + "\n")


def band(size: int, rng: Rng) -> Floats:
    """Noise in a band of 1 to 4 octaves, with flanks of 24 dB an octave."""
    middle, width = np.exp(rng.uniform(np.log(150), np.log(4000))), rng.uniform(1, 4)
    pitch = np.maximum(np.fft.rfftfreq(size, 1 / RATE), 1)
    beyond = np.maximum(0, np.abs(np.log2(pitch / middle)) - width / 2)  # octaves
    return np.fft.irfft(np.fft.rfft(rng.normal(size=size)) * 10 ** (-24 * beyond / 20), size)


def drone(size: int, rng: Rng) -> Floats:
    """Three to eight sines, harmonic or not, whose pitches and levels waver slowly."""
    seconds, base = np.arange(size) / RATE, np.exp(rng.uniform(np.log(55), np.log(330)))
    count, data = int(rng.integers(3, 9)), np.zeros(size)
    ratios = np.arange(1, count + 1) if rng.random() < 0.5 else np.sort(rng.uniform(1, 8, count))
    for ratio in ratios:
        pitch = base * ratio * (1 + rng.normal(0, 0.003))
        depth, rate, phase = rng.uniform(0, 0.004), rng.uniform(0.1, 2), rng.uniform(0, 2 * np.pi, 3)
        bend = pitch * depth / rate * np.sin(2 * np.pi * rate * seconds + phase[0])
        level = ratio ** -rng.uniform(0, 1)
        level *= 1 + 0.3 * np.sin(2 * np.pi * rng.uniform(0.05, 0.4) * seconds + phase[1])
        data += level * np.sin(2 * np.pi * pitch * seconds + bend + phase[2])
    return data


def babble(size: int, folder: Path, rng: Rng) -> Floats:
    """Four to nine voices at a time; each repeats its sentence from a random place on."""
    files = sorted(folder.glob("voice_*.wav"))
    data = np.zeros(size)
    for index in rng.permutation(len(files))[: int(rng.integers(4, 10))]:
        voice = read_wave(files[index])
        voice = np.resize(np.roll(voice, -int(rng.integers(len(voice)))), size)
        data += voice / voice.std() * 10 ** (rng.uniform(-3, 3) / 20)
    return data


def make_bed(bed: Bed, size: int, folder: Path, rng: Rng) -> Floats:
    """A bed (size) of root mean square 1, whose level swells as `bed` says."""
    data = babble(size, folder, rng) if bed.kind == "babble" else {"band": band, "drone": drone}[bed.kind](size, rng)
    seconds = np.arange(size) / RATE
    data = data * 10 ** (bed.swell / 20 * np.sin(2 * np.pi * seconds / bed.period + bed.phase))
    return np.asarray(data / np.sqrt(np.mean(data**2)))
