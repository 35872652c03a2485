"""`ep ask` on one film at several lengths: seconds by stage and peak memory, each length in its own process.

The film is repeated or cut by copying its packets, so that every length decodes alike. The memory of the process that
decodes is reported apart.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import typer

from epcli import console

QUESTION = "Which sound plays before the bird falls?"
STAGES = ("decode", "prepare", "encode", "select", "prefill", "total")
TICK = 0.05  # s between two readings of a process's memory


def main(
    film: Annotated[Path, typer.Argument(help="A film with sound, such as the one in moviepy 2.2.1's source package.")],
    minutes: Annotated[str, typer.Option(help="Lengths, comma-separated.")] = "1,2,5,10,30,60",
    keep: Annotated[str, typer.Option(help="Share of the tokens to keep.")] = "0.05",
    reducer: Annotated[str, typer.Option(help="The reducer.")] = "cs2",
    height: Annotated[int | None, typer.Option(help="Scale the film to this height first: less to decode.")] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON, a line a length.")] = False,
) -> None:
    """Ask about the film at every length, at 2 frames a second without a limit."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        film = film if height is None else scaled(film, height, Path(folder) / "small.mp4")
        for length in map(float, minutes.split(",")):
            clip = repeated(film, 60 * length, Path(folder) / f"{length:g}.mp4")
            rows.append({"minutes": length, **measured(clip, 60 * length, reducer, keep)})
            clip.unlink()
            console.out_json(rows[-1]) if json_out else console.out(line(rows[-1]))
    if len(rows) > 1 and not json_out:
        for name in (*STAGES, "cpu", "peak"):
            console.out(f"{name}: grows as minutes^{exponent(rows, 'minutes', name):.2f}")


def scaled(film: Path, height: int, out: Path) -> Path:
    """The film with its video transcoded to a smaller height, and its audio copied."""
    with av.open(str(film)) as source, av.open(str(out), "w") as target:
        video, audio = source.streams.video[0], source.streams.audio[0]
        picture = target.add_stream("libx264", rate=video.average_rate)
        picture.width, picture.height, picture.pix_fmt = (
            2 * round(video.width * height / video.height / 2),
            height,
            "yuv420p",
        )
        sound = target.add_stream_from_template(audio)
        for packet in source.demux(video, audio):
            if packet.stream is audio and packet.dts is not None:
                packet.stream = sound
                target.mux(packet)
            elif packet.stream is video:
                for frame in video.decode(packet):
                    target.mux(picture.encode(frame.reformat(picture.width, picture.height, "yuv420p")))
        target.mux(picture.encode(None))
    return out


def repeated(film: Path, seconds: float, out: Path) -> Path:
    """The film repeated or cut to `seconds`, by copying its packets."""
    with av.open(str(out), "w") as target:
        streams: dict[int, Any] = {}
        shift, length = Fraction(0), Fraction(0)
        while shift < seconds:
            with av.open(str(film)) as source:
                kinds = [*source.streams.video[:1], *source.streams.audio[:1]]
                if not streams:
                    streams = {one.index: target.add_stream_from_template(one) for one in kinds}
                for packet in source.demux(kinds):
                    if packet.pts is None or packet.dts is None or packet.time_base is None:
                        continue
                    begins = packet.pts * packet.time_base
                    if shift + begins >= seconds:
                        continue
                    length = max(length, begins + (packet.duration or 0) * packet.time_base)
                    ticks = round(shift / packet.time_base)
                    index, packet.pts, packet.dts = packet.stream.index, packet.pts + ticks, packet.dts + ticks
                    packet.stream = streams[index]
                    target.mux(packet)
            shift += length
    return out


def measured(clip: Path, seconds: float, reducer: str, keep: str, *more: str) -> dict[str, Any]:
    """The report of `ep ask` with `more` options, and the peak bytes of its process and of the one that decodes."""
    asked = [sys.executable, "-m", "epcli.main", "ask", str(clip), QUESTION, "--reducer", reducer, "--keep", keep]
    asked += [
        "--fps",
        "2",
        "--max-frames",
        str(math.ceil(2 * seconds) + 2),
        "--max-new-tokens",
        "8",
        "--no-cache",
        *more,
    ]
    program = subprocess.Popen([*asked, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks: dict[str, int] = {"own": 0, "decoder": 0}
    watcher = threading.Thread(target=watch, args=(program, peaks), daemon=True)
    watcher.start()
    earlier = processor_seconds()
    out, err = program.communicate()
    watcher.join()
    if program.returncode:
        raise SystemExit(err)
    report = json.loads(out)
    tokens = report["tokens"]
    before, after = (sum(tokens[kind][when] for kind in ("video", "audio")) for when in ("before", "after"))
    return {
        "tokens": before,
        "kept": after,
        **{name: report["time_s"][name] for name in STAGES},
        "cpu": processor_seconds() - earlier,
        "peak": report["memory_bytes"]["peak"],
        "rss": peaks["own"],
        "decoder": peaks["decoder"],
        "answer": report["answer"],
        "warnings": report["warnings"],
    }


def processor_seconds() -> float:
    """Processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(program: subprocess.Popen[str], peaks: dict[str, int]) -> None:
    """Record the peak resident bytes of a program and of its children until it ends."""
    while program.poll() is None:
        for pid, name in [(program.pid, "own"), *((pid, "decoder") for pid in children(program.pid))]:
            peaks[name] = max(peaks[name], resident(pid))
        time.sleep(TICK)


def children(pid: int) -> list[int]:
    """The children of a process, on Linux."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def resident(pid: int) -> int:
    """Resident bytes of a process; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def line(row: dict[str, Any]) -> str:
    """A row of a table in Markdown."""
    spent = " | ".join(f"{row[name]:.1f}" for name in (*STAGES, "cpu"))
    memory = " | ".join(f"{row[name] / 1e6:.0f} MB" for name in ("peak", "decoder"))
    return f"| {row['minutes']:g} | {row['tokens']:,} | {row['kept']:,} | {spent} | {memory} |"


def exponent(rows: list[dict[str, Any]], of: str, name: str) -> float:
    """The exponent of the power law between two figures that fits best: 1 is linear."""
    points = [(math.log(row[of]), math.log(max(row[name], 1e-6))) for row in rows]
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return float(sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points))


if __name__ == "__main__":
    typer.run(main)
