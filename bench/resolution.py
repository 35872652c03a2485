"""`ep ask` on one film at several heights, without a limit on pixels: seconds by stage and peak memory.

The film is transcoded to each height, so that decoding grows with encoding. Each height runs in its own process.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import av
import typer

from bench.long import STAGES, exponent, line, measured, repeated, scaled
from epcli import console


def main(
    film: Annotated[Path, typer.Argument(help="A film with sound, such as the one in moviepy 2.2.1's source package.")],
    heights: Annotated[str, typer.Option(help="Heights in pixels, comma-separated.")] = "126,180,252,360,504,720",
    seconds: Annotated[float, typer.Option(help="Length of the clip.")] = 20.0,
    keep: Annotated[str, typer.Option(help="Share of the tokens to keep.")] = "0.1",
    reducer: Annotated[str, typer.Option(help="The reducer.")] = "cs2",
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON, a line a height.")] = False,
) -> None:
    """Ask about the film at every height, at 2 frames a second, without a limit on pixels."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for height in map(int, heights.split(",")):
            small = repeated(scaled(film, height, Path(folder) / "small.mp4"), seconds, Path(folder) / "clip.mp4")
            pixels = area(small)
            found = measured(small, seconds, reducer, keep, "--max-pixels", str(pixels))
            rows.append({"minutes": seconds / 60, "height": height, "pixels": pixels, **found})
            console.out_json(rows[-1]) if json_out else console.out(f"| {height} {line(rows[-1])}")
    for name in (*STAGES, "cpu", "peak") if len(rows) > 1 and not json_out else ():
        console.out(f"{name}: grows as pixels^{exponent(rows, 'pixels', name):.2f}")


def area(clip: Path) -> int:
    """Pixels of a frame."""
    with av.open(str(clip)) as source:
        video = source.streams.video[0]
        return video.width * video.height


if __name__ == "__main__":
    typer.run(main)
