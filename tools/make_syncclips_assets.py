"""Rebuilds SyncClips' sprites, sounds and spoken words.

    python tools/make_syncclips_assets.py UNPACKED_NPM_PACKAGE [--soundfont FluidR3_GM.sf2] [--out DIR]

Sources, all free to redistribute (models/echoingpixels/assets/LICENSES.md has the notices):
- sprites: `npm pack @lobehub/fluent-emoji-3d@1.1.0`, unpacked; the folder with `assets/`. MIT.
- sounds: FluidR3 GM from Debian's `fluid-soundfont-gm` (MIT), rendered by `fluidsynth` (LGPL-2.1+).
- words: Debian's `espeak-ng` (GPL-3+, which does not cover its output).

The same versions give the same bytes: nothing is random, effects are off, and the serial number of each Ogg stream is
fixed.
"""

from __future__ import annotations

import argparse
import io
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from echoingpixels.synth.assets import SPRITE_PX

Wave = npt.NDArray[np.float32]
Note = tuple[float, int, float]  # start s, semitones above the root, hold s

RATE = 32_000  # Hz
PEAK = 0.9
SILENCE = 10 ** (-50 / 20)  # of the peak
SHORTEST_S, LONGEST_S = 0.5, 2.0  # of a sound
RELEASE_S = 0.3  # kept after the last note ends
FADE_S = 0.12
LEAD_S = 0.02  # of the slot, before the first note
SLOT_S = 4.0  # of the MIDI file, per take
OGG_COMPRESSION = 0.65  # libsndfile's scale; Vorbis quality 3.5
OGG_SERIAL = 1

SPRITES = {
    "cat": "1f431", "dog": "1f436", "horse": "1f434", "cow": "1f42e", "lion": "1f981", "elephant": "1f418",
    "penguin": "1f427", "fish": "1f41f", "car": "1f697", "bus": "1f68c", "bicycle": "1f6b2", "airplane": "2708-fe0f",
    "rocket": "1f680", "boat": "26f5", "apple": "1f34e", "banana": "1f34c", "pizza": "1f355", "cake": "1f382",
    "house": "1f3e0", "tree": "1f332", "sunflower": "1f33b", "umbrella": "2614", "clock": "23f0", "balloon": "1f388",
}  # fmt: skip

# General MIDI program (from 0), lowest and highest root as MIDI notes.
PITCHED = {
    "piano": (0, 43, 84), "marimba": (12, 48, 80), "bell": (14, 55, 77), "organ": (19, 41, 79), "guitar": (24, 41, 74),
    "violin": (40, 55, 88), "harp": (46, 41, 84), "trumpet": (56, 54, 77), "flute": (73, 60, 88),
    "whistle": (78, 77, 96),
}  # fmt: skip
EFFECTS = {"telephone": (124, 54, 69), "helicopter": (125, 50, 67), "applause": (126, 50, 67)}

HOLD_SHORT: list[Note] = [(0, 0, 0.7)]
HOLD: list[Note] = [(0, 0, 1.1)]
HOLD_LONG: list[Note] = [(0, 0, 1.8)]
REPEAT: list[Note] = [(0, 0, 0.3), (0.38, 0, 0.3), (0.76, 0, 0.5)]
TREMOLO: list[Note] = [(step * 0.14, 0, 0.13) for step in range(8)]
RISING: list[Note] = [(0, 0, 0.28), (0.3, 4, 0.28), (0.6, 7, 0.8)]
FALLING: list[Note] = [(0, 7, 0.4), (0.42, 0, 0.7)]
CHORD: list[Note] = [(0, 0, 1.2), (0, 4, 1.2), (0, 7, 1.2)]
FIFTH: list[Note] = [(0, 0, 0.8), (0, 7, 0.8)]
PATTERNS = [HOLD, REPEAT, CHORD, RISING, HOLD_LONG, FALLING, HOLD_SHORT, TREMOLO, FIFTH, HOLD, RISING, HOLD_LONG]
# An effect continues while it is held.
HOLDS: list[list[Note]] = [[(0, 0, hold)] for hold in (0.6, 1.8, 0.9, 1.4, 1.1, 1.7, 0.7, 1.5, 0.8, 1.2, 1.0, 1.6)]
VELOCITIES = (96, 72, 112, 84, 120)

SNARE, RIM_SNARE, TOMS = 38, 40, (50, 48, 47, 45, 43, 41)


def hits(notes: list[int], gap: float) -> list[Note]:
    """Percussion hits in sequence, `gap` s apart."""
    return [(step * gap, note, gap) for step, note in enumerate(notes)]


def rolled(notes: list[Note], gap: float = 0.13) -> list[Note]:
    """Held notes struck again every `gap` s, the way a marimba, which dies away at once, holds a note."""
    return [
        (start + stroke * gap, step, gap) for start, step, hold in notes for stroke in range(max(1, round(hold / gap)))
    ]


DRUM_PATTERNS = [
    hits([SNARE] * 14, 0.07),
    hits([SNARE] * 4, 0.25),
    hits(list(TOMS), 0.15),
    hits([TOMS[5], TOMS[5], SNARE], 0.3),
    hits([RIM_SNARE] * 10, 0.11),
    hits([TOMS[0], TOMS[0], TOMS[2], TOMS[2], TOMS[4], TOMS[4]], 0.12),
    hits([SNARE, TOMS[3], SNARE, TOMS[5]], 0.22),
    hits([TOMS[1]] * 6, 0.16),
    hits([TOMS[4]] * 9, 0.1),
    hits([SNARE, SNARE, TOMS[1], TOMS[1], TOMS[3], TOMS[3], TOMS[5]], 0.18),
    hits([RIM_SNARE, RIM_SNARE, TOMS[2]], 0.35),
    hits([SNARE] * 22, 0.055),
]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# espeak-ng's voice and its pitch (0..99) at each of the three speeds.
VOICES = {
    "en-us": (50, 44, 56), "en-gb": (45, 52, 38), "en-gb-scotland": (55, 47, 60), "en-gb-x-rp+m4": (40, 50, 46),
    "en-us+f2": (50, 58, 44), "en-gb+f4": (48, 40, 55), "en-gb+m3": (52, 44, 60), "en-us+m7": (47, 55, 41),
    "en-us-nyc+f3": (55, 48, 62),
}  # fmt: skip
SPEEDS = (130, 165, 200)  # words a minute
# Spoken by two voices each for the babble of regime busy: no word of them is a number.
SENTENCES = (
    "The harbour was quiet when they came back from the market with bread, apples and a bag of old letters.",
    "Please leave your coat by the door, and tell your sister that dinner will be ready in a little while.",
    "She wondered whether the garden would survive another winter, but the neighbours had stopped asking.",
    "Most people walk past the library without noticing the small brass plate under the window.",
    "He promised to repair the fence, paint the shed, and write to his uncle about the missing bicycle parts.",
    "Our train was delayed again, so we shared a newspaper and talked about music until the lights went out.",
    "A cold wind moved through the valley, and the shepherd called his dogs home before the rain began.",
    "They argued all evening about the colour of the curtains, then laughed and made a pot of strong tea.",
    "Every morning the baker opens his shutters, sweeps the pavement, and greets the postman by name.",
)


def sprite(source: Path) -> Image.Image:
    """The emoji without its transparent margin, centred in a square of SPRITE_PX."""
    image = Image.open(source).convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())
    scale = SPRITE_PX / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGBA", (SPRITE_PX, SPRITE_PX))
    square.paste(
        image.resize((width, height), Image.Resampling.LANCZOS), ((SPRITE_PX - width) // 2, (SPRITE_PX - height) // 2)
    )
    return square


def variable_length(number: int) -> bytes:
    """A MIDI delta time: 7 bits a byte, the last one with its high bit clear."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(0x80 | number & 0x7F)
    return bytes(reversed(digits))


def midi(takes: list[tuple[int, list[Note]]], program: int, channel: int) -> bytes:
    """A MIDI file with one take, (root, notes), every SLOT_S; a tick is a millisecond."""
    events: list[tuple[int, int, bytes]] = [(0, 0, bytes([0xC0 | channel, program]))]
    for slot, (root, notes) in enumerate(takes):
        begin = round(slot * SLOT_S * 1000)
        events.append((begin, 0, bytes([0xB0 | channel, 120, 0])))  # cut what still rings
        velocity = VELOCITIES[slot % len(VELOCITIES)]
        for start, step, hold in notes:
            on, off = (begin + round((LEAD_S + after) * 1000) for after in (start, start + hold))
            events.append((on, 2, bytes([0x90 | channel, root + step, velocity])))
            events.append((off, 1, bytes([0x80 | channel, root + step, 64])))
    events.append((round(len(takes) * SLOT_S * 1000), 0, bytes([0xB0 | channel, 120, 0])))
    track, now = b"\x00\xff\x51\x03" + (500_000).to_bytes(3, "big"), 0
    for tick, _, message in sorted(events):
        track += variable_length(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500) + b"MTrk" + struct.pack(">I", len(track)) + track


def render(score: bytes, soundfont: Path) -> Wave:
    """The MIDI file as played by fluidsynth without reverb or chorus: (S,) at RATE."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "score.mid"), Path(folder, "score.wav")
        source.write_bytes(score)
        command = ["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.4", "-r", str(RATE), "-T", "wav"]
        subprocess.run([*command, "-O", "s24", "-F", target, soundfont, source], check=True, capture_output=True)
        wave, rate = soundfile.read(target, dtype="float32", always_2d=True)
    assert rate == RATE, rate
    return np.asarray(wave.mean(axis=1), dtype=np.float32)


def trimmed(wave: Wave) -> Wave:
    """Without the silence at both ends, at PEAK."""
    level = np.abs(wave)
    loud = np.flatnonzero(level > SILENCE * level.max())
    return wave[loud[0] : loud[-1] + 1] * np.float32(PEAK / level.max())


def sound_take(slot: Wave, notes: list[Note]) -> Wave:
    """One take, cut RELEASE_S after its last note or at LONGEST_S, faded where the cut would click."""
    held = max(start + hold for start, _, hold in notes)
    whole = trimmed(slot)
    take = whole[: round(min(held + RELEASE_S, LONGEST_S) * RATE)]
    fade = round(FADE_S * RATE)
    if len(take) < len(whole):
        take[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32) ** 2
    take = take * np.float32(PEAK / np.abs(take).max())
    assert len(take) >= SHORTEST_S * RATE, f"a take lasts only {len(take) / RATE:.2f} s"
    return take


def sound(name: str, soundfont: Path) -> list[Wave]:
    """All takes of one sound, each (S,) at RATE."""
    if name == "drum":
        takes, program, channel = [(0, pattern) for pattern in DRUM_PATTERNS], 0, 9
    else:
        program, low, high = (PITCHED | EFFECTS)[name]
        patterns, channel = PATTERNS if name in PITCHED else HOLDS, 0
        if name == "marimba":
            patterns = [rolled(notes) for notes in patterns]
        # 5 and 12 share no factor: neighbouring takes lie far apart, and every root of the spread is used once.
        steps = [take * 5 % len(patterns) / (len(patterns) - 1) for take in range(len(patterns))]
        takes = [(low + round(step * (high - low)), notes) for step, notes in zip(steps, patterns, strict=True)]
    wave, slot = render(midi(takes, program, channel), soundfont), round(SLOT_S * RATE)
    return [sound_take(wave[n * slot : (n + 1) * slot], notes) for n, (_, notes) in enumerate(takes)]


def resampled(wave: Wave, rate: int) -> Wave:
    """`wave` at RATE, by zero-padding its spectrum; for a signal that is silent at both ends."""
    padded = np.pad(wave, rate // 10)
    padded = np.pad(padded, (0, -len(padded) % rate))  # whole seconds, so that the ratio is exact
    spectrum = np.fft.rfft(padded)
    out = len(padded) // rate * RATE
    return np.asarray(np.fft.irfft(spectrum, out) * (out / len(padded)), dtype=np.float32)


def speech(text: str, voice: str, speed: int, pitch: int) -> Wave:
    """`text` spoken by a voice: (S,) at RATE."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    # espeak-ng cannot seek in a pipe, so its WAV header claims a wrong length: read the samples behind it.
    output = subprocess.run(command, check=True, capture_output=True).stdout
    rate, data = int.from_bytes(output[24:28], "little"), output[44:]
    wave = np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2") / np.float32(2**15)
    return trimmed(resampled(wave.astype(np.float32), rate))


def spoken(word: str) -> list[Wave]:
    """`word` in every voice at every speed, slow to fast within a voice; each (S,) at RATE."""
    return [
        speech(word, voice, speed, pitch)
        for voice, pitches in VOICES.items()
        for speed, pitch in zip(SPEEDS, pitches, strict=True)
    ]


def chatter() -> list[Wave]:
    """Every sentence by two voices; each (S,) at RATE."""
    voices = list(VOICES)
    return [
        speech(sentence, voice, SPEEDS[(number + shift) % 3], VOICES[voice][number % 3])
        for number, sentence in enumerate(SENTENCES)
        for shift, voice in ((0, voices[number % len(voices)]), (1, voices[(number + 4) % len(voices)]))
    ]


def ogg_checksums() -> list[int]:
    """The table of Ogg's CRC-32 (polynomial 0x04c11db7, not reflected); RFC 3533, section 6."""
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
        table.append(value)
    return table


OGG_TABLE = ogg_checksums()


def with_fixed_serial(stream: bytes) -> bytes:
    """The Ogg stream with OGG_SERIAL in every page, so that the same sound is the same file."""
    pages, begin = [], 0
    while begin < len(stream):
        assert stream[begin : begin + 4] == b"OggS", f"no Ogg page at byte {begin}"
        body = begin + 27 + stream[begin + 26]
        end = body + sum(stream[begin + 27 : body])
        page = bytearray(stream[begin:end])
        page[14:18], page[22:26] = OGG_SERIAL.to_bytes(4, "little"), bytes(4)
        checksum = 0
        for byte in page:
            checksum = (checksum << 8 & 0xFFFFFFFF) ^ OGG_TABLE[checksum >> 24 ^ byte]
        page[22:26] = checksum.to_bytes(4, "little")
        pages.append(bytes(page))
        begin = end
    return b"".join(pages)


def write_takes(folder: Path, name: str, takes: list[Wave]) -> None:
    """`folder/name_01.ogg` and so on."""
    for number, take in enumerate(takes, start=1):
        buffer = io.BytesIO()
        soundfile.write(buffer, take, RATE, format="OGG", subtype="VORBIS", compression_level=OGG_COMPRESSION)
        (folder / f"{name}_{number:02d}.ogg").write_bytes(with_fixed_serial(buffer.getvalue()))


def main() -> None:
    repository = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description="Rebuild SyncClips' sprites, sounds and spoken words.")
    parser.add_argument("package", type=Path, help="the unpacked npm package @lobehub/fluent-emoji-3d 1.1.0")
    parser.add_argument("--soundfont", type=Path, default=Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"))
    parser.add_argument("--out", type=Path, default=repository / "models/echoingpixels/assets/syncclips")
    options = parser.parse_args()
    for kind in ("sprites", "sounds", "words", "voices"):
        shutil.rmtree(options.out / kind, ignore_errors=True)
        (options.out / kind).mkdir(parents=True)
    for name, code in SPRITES.items():
        image = sprite(options.package / "assets" / f"{code}.webp")
        image.save(options.out / "sprites" / f"{name}.webp", quality=88, method=6)
    for word in WORDS:
        write_takes(options.out / "words", word, spoken(word))
    write_takes(options.out / "voices", "voice", chatter())
    for name in [*PITCHED, "drum", *EFFECTS]:
        write_takes(options.out / "sounds", name, sound(name, options.soundfont))


if __name__ == "__main__":
    main()
