"""Reads many spoiled files in one worker and counts what comes of them: a clip, or one clear line.

`python -m tests.support.fuzz --count 2000` prints the counts; `--keep FOLDER` saves the files that went wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from echoingpixels.errors import EpError
from echoingpixels.inputs.patches import Resolution
from echoingpixels.media import Limits, Worker
from echoingpixels.media.clip import Clip
from echoingpixels.options import MediaOptions
from tests.support.made import MADE
from tests.support.mutants import mutate
from tests.support.realclips import samples

LIMITS = Limits(seconds=20.0, bytes=2 << 30)
SIZE = Resolution.plain(224 * 224).size
WARM = 100  # files after which memory should not grow any more
Maker = Callable[[Path], Path]
WRONG = {  # errors that a file must not cause
    "hung": re.compile("was stopped: no"),
    "large": re.compile("GiB of memory"),
    "crashed": re.compile("ended the process"),
    "ours": re.compile("broke the reader"),
}


@dataclass
class Tally:
    """What came of the files read so far. `rss`: of the worker after each, in bytes."""

    clips: int = 0
    warned: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    processes: set[int] = field(default_factory=set)

    def as_dict(self) -> dict[str, Any]:
        """The counts, for printing."""
        after = self.rss[WARM:] or self.rss
        return {
            "files": len(self.seconds),
            "clips": self.clips,
            "of them with warnings": self.warned,
            "refused": sum(self.refused.values()),
            "refused with": dict(self.refused.most_common(12)),
            "wrong": self.wrong,
            "seconds": {"median": float(np.median(self.seconds)), "most": max(self.seconds)},
            "worker MiB": {f"after {WARM}": after[0] >> 20, "at the end": after[-1] >> 20, "most": max(self.rss) >> 20},
            "processes": len(self.processes),
        }


def options(rng: random.Random) -> MediaOptions:
    """How a file is read: mostly its beginning, sometimes all of it or a later part."""
    start, end = rng.choice([(None, 2.0), (None, 2.0), (None, None), (1.2, 3.0), (0.0, 0.3), (50.0, 52.0)])
    return MediaOptions(rng.choice([2, 2, 10]), rng.choice([4, 16]), start, end)


def check(clip: Clip) -> None:
    """What holds for every clip."""
    assert len(clip.frames) == len(clip.times) and clip.frames.dtype == np.uint8
    assert (np.diff(clip.times) > 0).all() and np.isfinite(clip.times).all() and (clip.times >= 0).all()
    assert clip.audio is None or (len(clip.audio) and np.isfinite(clip.audio).all())
    assert len(clip.frames) or clip.audio is not None or clip.source.silent
    assert np.isfinite(clip.duration) and clip.duration >= 0


def outcome(worker: Worker, path: Path, asked: MediaOptions, tally: Tally) -> str:
    """Reads one file into the tally; returns what was wrong with that, or nothing."""
    began, wrong = time.monotonic(), ""
    try:
        clip = worker.read(path, asked, frame_size=SIZE)
        check(clip)
        tally.clips += 1
        tally.warned += bool(clip.source.warnings)
    except EpError as error:
        message = str(error)
        wrong = next((name for name, pattern in WRONG.items() if pattern.search(message)), "")
        if "\n" in message or not error.hint or path.name not in message or "Traceback" in message:
            wrong = wrong or "unclear"
        tally.refused[re.sub(r"\S*/\S*|\d[\d.]*", "…", error.message)[:90]] += 1
        if wrong:
            wrong = f"{wrong}: {message} {' '.join(getattr(error, '__notes__', []))}"
    except AssertionError:
        wrong = f"no sound clip: {traceback.format_exc()}"
    tally.seconds.append(time.monotonic() - began)
    if worker.pid is not None:
        tally.processes.add(worker.pid)
        tally.rss.append(rss(worker.pid))
    return wrong


def rss(pid: int) -> int:
    """Bytes of memory that a process has; 0 where the system does not tell."""
    try:
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) << 10
    except (OSError, IndexError):
        return 0


def spoil(seeds: Sequence[Path], count: int, seed: int, folder: Path) -> Iterator[tuple[str, Path, random.Random]]:
    """`count` spoiled files, one after the other in the same folder."""
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        source = seeds[i % len(seeds)]
        done, data = mutate(source.read_bytes(), rng)
        path = folder / f"spoiled{source.suffix}"
        path.write_bytes(data)
        yield f"{i} {source.name} {done}", path, rng
        path.unlink()


def run(seeds: Sequence[Path], count: int, seed: int = 0, keep: Path | None = None) -> Tally:
    """Reads `count` spoiled files."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, Worker(LIMITS) as worker:
        worker.start()
        for name, path, rng in spoil(seeds, count, seed, Path(folder)):
            wrong = outcome(worker, path, options(rng), tally)
            if wrong:
                tally.wrong.setdefault(wrong.partition(":")[0], []).append(f"{name}: {wrong}")
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name.replace(' ', '-')}{path.suffix}").write_bytes(path.read_bytes())
    return tally


def made(folder: Path) -> list[Path]:
    """All made media."""
    return [make(folder)[0] for make in MADE.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = [*made(Path(folder)), *samples("audio", "image", "video")]
        print(json.dumps(run(seeds, given.count, given.seed, given.keep).as_dict(), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
