"""Media spoiled at random, the same way each time for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable

TAGS = (  # after which a format's headers hold sizes, counts, rates and times
    b"mvhd", b"tkhd", b"mdhd", b"elst", b"stsd", b"stts", b"ctts", b"stsc", b"stsz", b"stco", b"stss", b"moof", b"tfhd",
    b"trun", b"avc1", b"avcC", b"esds", b"mp4a", b"RIFF", b"fmt ", b"data", b"avih", b"strh", b"strf", b"idx1", b"IHDR",
    b"IDAT", b"acTL", b"fcTL", b"fLaC", b"OggS", b"OpusHead", b"vorbis", b"Xing", b"Info", b"ID3", b"GIF89a", b"JFIF",
    b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75",
    b"\xff\xc0", b"\x44\x89", b"\x2a\xd7\xb1", b"FLV", b"onMetaData", b"FORM", b"COMM", b"wvpk", b".RMF", b"MDPR",
    b"ispe", b"iloc",
)  # fmt: skip


def _place(data: bytearray, rng: random.Random) -> tuple[int, int]:
    """Where to begin, and how many bytes to take: a few more often than many."""
    length = min(int(2 ** rng.uniform(0, 17)), len(data))
    return rng.randrange(len(data) - length + 1), length


def flip(data: bytearray, rng: random.Random) -> None:
    """Single bits."""
    for _ in range(rng.choice([1, 4, 32, 256])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def noise(data: bytearray, rng: random.Random) -> None:
    """A stretch of anything."""
    at, length = _place(data, rng)
    data[at : at + length] = rng.randbytes(length)


def blank(data: bytearray, rng: random.Random) -> None:
    """A stretch that was never written."""
    at, length = _place(data, rng)
    data[at : at + length] = bytes(length)


def delete(data: bytearray, rng: random.Random) -> None:
    """A stretch less."""
    at, length = _place(data, rng)
    del data[at : at + length]


def repeat(data: bytearray, rng: random.Random) -> None:
    """A stretch twice, or up to nine times."""
    at, length = _place(data, rng)
    data[at:at] = data[at : at + length] * rng.choice([1, 2, 8])


def swap(data: bytearray, rng: random.Random) -> None:
    """Two stretches in each other's place."""
    (a, length), b = _place(data, rng), _place(data, rng)[0]
    length = min(length, abs(a - b), len(data) - max(a, b))
    data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]


def cut(data: bytearray, rng: random.Random) -> None:
    """The end missing, or the beginning."""
    at = rng.randrange(1, len(data))
    if rng.random() < 0.8:
        del data[at:]
    else:
        del data[: min(at, 4096)]


def extreme(data: bytearray, rng: random.Random) -> None:
    """A header's fields at the ends of what they can hold."""
    found = [at + len(tag) for tag in TAGS if (at := data.find(tag, rng.randrange(len(data)) // 2)) >= 0]
    for _ in range(rng.choice([1, 1, 2, 4])):
        base = rng.choice(found) if found else 0
        at, width = min(base + rng.randrange(48), len(data) - 1), rng.choice([1, 2, 4, 4, 8])
        value = rng.choice([0, 1, (1 << 8 * width) - 1, (1 << 8 * width - 1) - 1, 1 << 8 * width - 1])
        field = value.to_bytes(width, rng.choice(["big", "little"]))
        data[at : at + width] = field[: len(data) - at]


KINDS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, noise, blank, delete, repeat, swap, cut, extreme, extreme, extreme,
)  # fmt: skip


def mutate(whole: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done, and what came of it."""
    data, done = bytearray(whole), []
    for _ in range(rng.choice([1, 1, 2, 3])):
        if len(data) > 1:
            kind = rng.choice(KINDS)
            kind(data, rng)
            done.append(kind.__name__)
    return "+".join(done), bytes(data)
