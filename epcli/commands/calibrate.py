"""`ep calibrate`: measures how many tokens a sieve takes for which quality, for `--keep auto`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.options import AUTO, GenerateOptions

from .. import console
from .. import options as o
from ..session import choose, load_model, reading
from .evaluate import LONGEST, telling

if TYPE_CHECKING:
    from echoingpixels.evaluation.calibrate import Calibration

OUT = "Folder for a copy of the sieve with its calibration, if not the sieve itself."


def calibrate(
    data: Annotated[Path, typer.Argument(help="JSONL as `ep evaluate` reads; questions the sieve was not trained on.")],
    model: o.Model = AUTO,
    sieve: o.Sieve = None,
    quant: o.QuantName = AUTO,
    device: o.Device = AUTO,
    dtype: o.DtypeName = AUTO,
    yes: o.Yes = False,
    fps: o.Fps = o.FPS,
    max_frames: o.MaxFrames = o.MAX_FRAMES,
    max_pixels: o.MaxPixels = None,
    encode: o.EncodeText = o.ENCODE_TEXT,
    no_audio: o.NoAudio = False,
    audio_track: o.AudioTrack = None,
    max_new_tokens: o.MaxNewTokens = LONGEST,
    format: o.Format = "auto",
    media: o.Clips = None,
    limit: o.Limit = None,
    out: Annotated[Path | None, o.output_option("--out", OUT)] = None,
    force: o.Force = False,
    json: o.Json = False,
) -> None:
    """Calibrate a sieve for --keep auto: how much it has to keep for which question and share of the full accuracy.

    Answers all questions from all tokens and at ten ratios, in one pass.
    Writes the calibration into the sieve's sieve.json.
    """
    read = o.media_options(fps, max_frames, no_audio, audio_track)
    load_options = o.load_options(sieve, quant, device, max_pixels, encode, dtype=dtype)
    generate = GenerateOptions(max_new_tokens)
    from echoingpixels.datasets.reading import read_questions

    rows = read_questions(data, limit, format, media)
    from echoingpixels.checkpoints.loading import check_sieve
    from echoingpixels.evaluation.calibrate import calibrate as run
    from echoingpixels.evaluation.calibrate import sieve_to_write, write_calibration

    chosen = choose(model, load_options, yes)
    folder = sieve_to_write(check_sieve(chosen.name, chosen.load), out, force)
    with reading() as worker:
        loaded = load_model(chosen, ["cs2"])
        with console.progress("clips") as progress:
            found = run(loaded, rows, read, generate, on_outcome=telling(), on_progress=progress, reader=worker.stream)
    write_calibration(folder, found.enough)
    if json:
        points = [asdict(point) for point in found.points]
        measured = {"accuracy": found.accuracy, "points": points}
        console.out_json({"model": chosen.name, "data": str(data), "sieve": str(folder), **measured})
    else:
        console.columns(*_table(found))
    console.pairs([("right from all tokens", f"{100 * found.accuracy:.1f} %"), ("written to", str(folder))])


def _table(found: Calibration) -> tuple[list[str], list[list[str]]]:
    rows = [
        [f"{p.price:g}", f"{100 * p.kept_ratio:.1f} %", f"{100 * p.accuracy:.1f} %", f"{p.quality:.3f}"]
        for p in found.points
    ]
    return ["price", "tokens kept", "right", "quality"], rows
