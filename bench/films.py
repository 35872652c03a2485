"""Time to read the video of a film, compared with decoding every frame of it, and the referenced frames alone.

Every round runs all rates, each in the program itself and by a worker; ratios are of processor time within a round, as
wall time depends on what else the machine does (`wall_of_referenced` is of wall time). Reading by a worker counts both
processes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import av
import typer

from echoingpixels.inputs.patches import Resolution
from echoingpixels.media import Worker, stream_clip
from echoingpixels.media.video import THREADS
from echoingpixels.options import MediaOptions
from epcli import console

MOST = 1_000_000  # frames: the rate decides
SIZE = Resolution.plain(224 * 224).size
EVERY, REFERENCED = "every frame", "referenced frames"


def main(
    film: Annotated[Path, typer.Argument(help="A film.")],
    fps: Annotated[str, typer.Option(help="Frames a second, comma-separated.")] = "2,0.5,0.1",
    seconds: Annotated[float | None, typer.Option(help="Length of the part to read; default all.")] = None,
    audio: Annotated[bool, typer.Option(help="Also read the audio.")] = True,
    repeat: Annotated[int, typer.Option(help="Rounds.")] = 3,
) -> None:
    """Frames, wall and processor seconds, and their ratios to plain decoding; JSON, one a line.

    `of_every`: of the time to decode every frame, with the least and the most. `of_referenced`: to decode the frames
    that others build upon, without conversion and sound.
    """
    ways: dict[str, Callable[[], tuple[int, float]]] = {
        EVERY: partial(plain, film, seconds, "DEFAULT"),
        REFERENCED: partial(plain, film, seconds, "NONREF"),
    }
    for rate in map(float, fps.split(",")):
        options = MediaOptions(fps=rate, max_frames=MOST, end=seconds, audio=audio)
        ways[f"{rate:g} fps"] = partial(read, film, options)
        ways[f"{rate:g} fps, worker"] = partial(work, film, options)
    rounds = [{way: measured(run) for way, run in ways.items()} for _ in range(repeat)]
    for way in ways:
        runs = [one[way] for one in rounds]
        of_every = ratios(rounds, way, EVERY, "processor_s")
        row = {
            "way": way,
            "frames": runs[0]["frames"],
            **{name: round(median(run[name] for run in runs), 2) for name in ("wall_s", "processor_s")},
            "least_wall_s": round(min(run["wall_s"] for run in runs), 2),
            "of_every": round(median(of_every), 3),
            "low": round(min(of_every), 3),
            "high": round(max(of_every), 3),
            "of_referenced": round(median(ratios(rounds, way, REFERENCED, "processor_s")), 3),
            "wall_of_referenced": round(median(ratios(rounds, way, REFERENCED, "wall_s")), 3),
        }
        console.out(json.dumps(row))


def ratios(rounds: list[dict[str, dict[str, Any]]], way: str, to: str, name: str) -> list[float]:
    """One time of a way over the same time of another, round by round."""
    return [one[way][name] / one[to][name] for one in rounds]


def measured(run: Callable[[], tuple[int, float]]) -> dict[str, Any]:
    """Frames, and seconds by the clock and of all processors."""
    wall, spent = time.perf_counter(), time.process_time()
    frames, elsewhere = run()
    spent = time.process_time() - spent + elsewhere
    return {"frames": frames, "wall_s": time.perf_counter() - wall, "processor_s": spent}


def plain(film: Path, seconds: float | None, skip: Literal["DEFAULT", "NONREF"]) -> tuple[int, float]:
    """Decode, and discard the frames; `skip` as FFmpeg's skip_frame."""
    frames = 0
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_type, context.thread_count = "AUTO", THREADS
        context.skip_frame = skip
        for packet in container.demux(stream):
            if seconds is not None and packet.dts is not None and packet.dts * packet.time_base >= seconds:
                break
            frames += len(context.decode(packet))
    return frames, 0.0


def read(film: Path, options: MediaOptions) -> tuple[int, float]:
    """Read in this process, as the library does."""
    with closing(stream_clip(film, options, frame_size=SIZE)) as pieces:
        return sum(len(piece.frames) for piece in pieces), 0.0


def work(film: Path, options: MediaOptions) -> tuple[int, float]:
    """Read in a process of its own, as the commands do."""
    before = os.times()
    with Worker() as worker:
        frames = sum(len(piece.frames) for piece in worker.stream(film, options, frame_size=SIZE))
    after = os.times()
    return frames, after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    typer.run(main)
