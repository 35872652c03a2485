"""Sound-only files through libsndfile: WAV, FLAC, Ogg and the like. Knows nothing about containers with pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from .clip import PIECE, AudioTrack
from .host import nothing
from .sound import PREROLL, Samples, SoundReader

BLOCK = 65_536  # samples read at a time
SHORT_DATA = re.compile(r"data *: *(\d+) \(should be (\d+)\)")  # libsndfile's word on a WAV that was cut short


@dataclass(frozen=True)
class Recording:
    """What libsndfile read of a file. `end`: where its sound ends in the clip (s); `reason`: why reading stopped."""

    samples: Samples  # those not given before
    heard: bool
    silent: bool
    track: AudioTrack
    container: str
    duration: float  # s of the whole file, as it says
    end: float
    final: bool  # all there is has been read, though the file says there is more
    reason: str = ""


def can_read(path: Path) -> bool:
    """Whether libsndfile reads the file, up to its first samples."""
    reading = read_recording(path, 0.0, 0.1)
    try:
        while True:
            next(reading)
    except StopIteration as ended:
        return ended.value is not None


def read_recording(
    path: Path, start: float, limit: float, beat: Callable[[], None] = nothing
) -> Generator[Samples, None, Recording | None]:
    """The part of `path` from `start`, at most `limit` long (s), by PIECE; None if libsndfile cannot read the file, or
    if it has more than two channels (it does not say which speaker each belongs to)."""
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError, TypeError):
        return None
    with file:
        if file.channels > 2 or file.samplerate < 1 or not file.frames:
            return None
        layout = "mono" if file.channels == 1 else "stereo"
        track = AudioTrack(str(file.subtype).lower(), file.samplerate, file.channels, layout)
        reader, reason = SoundReader(Fraction(0), limit), ""
        position = max(int((start - PREROLL) * file.samplerate), 0)
        try:
            position = file.seek(min(position, file.frames)) if position else 0
            while not reader.done:
                block = file.read(BLOCK, dtype="float32", always_2d=True)
                if not len(block):
                    break
                beat()
                frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=layout)
                frame.sample_rate = file.samplerate
                reader.add(position / file.samplerate - start, frame)
                position += len(block)
                if reader.ready >= PIECE:
                    yield reader.drain()
        except soundfile.SoundFileError as error:
            reason = str(error).strip().rstrip(".").lower()
        frames, cut = file.frames, SHORT_DATA.search(file.extra_info)
        if cut:
            frames = round(frames * int(cut[1]) / max(int(cut[2]), 1))
        samples = reader.finish()
        return Recording(
            samples=samples,
            heard=reader.heard,
            silent=reader.silent,
            track=track,
            container=str(file.format).lower(),
            duration=frames / file.samplerate,
            end=reader.end,
            final=bool(cut),
            reason=reason,
        )
