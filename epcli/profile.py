"""`ep profile`: what reducers and keep ratios cost and change, against the run from all tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.errors import OptionError
from echoingpixels.options import AUTO, GenerateOptions, MediaOptions, ProfileOptions, check_question, keep_name

from . import console
from . import options as o
from .evaluate import telling
from .model import choose, load_model
from .outfile import check_outfile
from .reading import reading
from .sheet import tables, write_csv

if TYPE_CHECKING:
    from echoingpixels.datasets.questions import Row
    from echoingpixels.media import Worker
    from echoingpixels.model import EchoingPixels
    from echoingpixels.profiling.profile import Profile

KEEPS = ",".join(f"{keep:g}" for keep in ProfileOptions.keeps)
REDUCERS = f"Reducers, comma-separated; {o.AUTO_REDUCER}. uniform and random always run."
REPEAT = "Rounds that are measured."
WARM_UP = "Rounds before them, not counted."
DATA = "Questions as `ep evaluate` reads: adds how many are answered right."


def profile(
    media: Annotated[Path, typer.Argument(help="A clip, or a folder: all video and sound files in it and below.")],
    question: Annotated[str, typer.Argument(help="What every clip is asked.")],
    model: o.Model = AUTO,
    sieve: o.Sieve = None,
    keep: Annotated[str, o.tokens_option("--keep", "Shares to keep, comma-separated.")] = KEEPS,
    reducer: Annotated[str, o.tokens_option("--reducer", REDUCERS)] = AUTO,
    quant: o.QuantName = AUTO,
    device: o.Device = AUTO,
    dtype: o.DtypeName = AUTO,
    yes: o.Yes = False,
    fps: o.Fps = o.FPS,
    max_frames: o.MaxFrames = o.MAX_FRAMES,
    max_pixels: o.MaxPixels = None,
    encode: o.EncodeText = o.ENCODE_TEXT,
    start: o.Start = None,
    end: o.End = None,
    no_audio: o.NoAudio = False,
    audio_track: o.AudioTrack = None,
    max_new_tokens: o.MaxNewTokens = o.MAX_NEW_TOKENS,
    compile: o.Compile = False,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help=REPEAT)] = ProfileOptions.repeat,
    warm_up: Annotated[int, typer.Option("--warm-up", min=0, help=WARM_UP)] = ProfileOptions.warm_up,
    data: Annotated[Path | None, typer.Option("--data", help=DATA)] = None,
    format: o.Format = "auto",
    clips: o.Clips = None,
    limit: o.Limit = None,
    json: o.Json = False,
    csv: Annotated[Path | None, o.output_option("--csv", "Write the figures here, a row a setting.")] = None,
    plot: Annotated[Path | None, o.output_option("--plot", "Draw speed, memory and agreement: .png or .svg.")] = None,
    force: o.Force = False,
) -> None:
    """Measure reducers and keep ratios on a clip or a folder, beside the run from all tokens.

    Every round runs every setting, each time in another order; figures are medians over the rounds.
    Ends with the one setting to use, and why.
    """
    check_question(question)
    options = ProfileOptions(o.ratios(keep), o.reducers(reducer), repeat, warm_up)
    read = o.media_options(fps, max_frames, no_audio, audio_track, start, end)
    load = o.load_options(sieve, quant, device, max_pixels, encode, dtype=dtype)
    generate = GenerateOptions(max_new_tokens, compile=compile)
    rows = _questions(data, format, clips, limit)
    _check_outputs(csv, plot, [media, *([data] if data else [])], force)
    chosen = choose(model, load, yes)
    with reading() as worker:
        from echoingpixels.media import find_clips

        found_clips = find_clips(media, worker.check)
        loaded = load_model(chosen, options.reducers)
        from echoingpixels.profiling.profile import profile as measure

        with console.progress("answers") as progress:
            found = measure(loaded, found_clips, question, options, read, generate, progress, worker.stream)
        if rows:
            found = _scored(found, loaded, rows, read, generate, worker)
    if json:
        console.out_json({"media": str(media), **found.as_dict(), "data": str(data) if data else None})
    else:
        _print(found)
    if csv:
        write_csv(found, csv)
    if plot:
        from echoingpixels.profiling.plot import draw

        draw(found, plot)


def _questions(data: Path | None, format: str, clips: Path | None, limit: int | None) -> list[Row]:
    """The questions of --data; none without it."""
    if data is None:
        given = {"--format": format != AUTO, "--media": clips is not None, "--limit": limit is not None}
        for option in (name for name, is_given in given.items() if is_given):
            raise OptionError(f"{option} is about the questions of --data.", "Give --data FILE, too.")
        return []
    from echoingpixels.datasets.reading import read_questions

    return read_questions(data, limit, format, clips)


def _check_outputs(csv: Path | None, plot: Path | None, sources: list[Path], force: bool) -> None:
    """Before anything is measured."""
    if csv:
        check_outfile(csv, "--csv", (".csv",), sources, force)
    if plot:
        from echoingpixels.profiling.plot import ENDINGS, check_plot

        check_outfile(plot, "--plot", ENDINGS, sources, force)
        check_plot()


def _scored(
    found: Profile,
    model: EchoingPixels,
    rows: list[Row],
    read: MediaOptions,
    generate: GenerateOptions,
    worker: Worker,
) -> Profile:
    """With the share of right answers, by setting."""
    from echoingpixels.evaluation.evaluate import evaluate

    with console.progress("clips of questions") as progress:
        runs = evaluate(model, rows, found.settings, read, generate, telling(), progress, worker.stream)
    return found.scored({run.setting: run.score for run in runs})


def _print(found: Profile) -> None:
    for header, rows in tables(found):
        console.columns(header, rows)
        console.out("")
    best = found.recommended
    console.out(f"recommended: {best.setting.reducer} at keep {keep_name(best.setting.keep)}. {best.reason}")
    failed = [("failed", reason) for reason in found.failed.values()]
    warnings = [("warning", text) for text in found.warnings]
    console.pairs([*failed, *warnings, *(("note", text) for text in found.notes)])
