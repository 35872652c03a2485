"""`ep evaluate`: how many questions with known answers are answered right, by reducer and keep ratio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.errors import OptionError
from echoingpixels.options import AUTO, GenerateOptions, LoadOptions, MediaOptions, check_reducer

from . import console
from . import options as o
from .model import choose, load_model, named
from .outfile import check_sources
from .reading import reading
from .scores import plain, remarks, tables

if TYPE_CHECKING:
    from echoingpixels.datasets.questions import Row
    from echoingpixels.evaluation.answerfile import AnswerFile
    from echoingpixels.evaluation.baseline import Baseline
    from echoingpixels.evaluation.evaluate import Outcome
    from echoingpixels.reducers.setting import Setting

ROWS_FAILED = 3  # exit code
DATA = "JSONL: media, question, answer; also id, kind, regime, choices, start, end. Or a published set's file."
LONGEST = 32  # tokens of an answer
KEEPS = f"Shares to keep, comma-separated; also {o.AUTO_HELP}."
BASELINE = "Compare with an earlier evaluation, question by question: what its --out or --json wrote."
RESUME = "Go on with --out: questions answered there are not asked again, failed ones are."
BASELINE_RUN = "Which of its runs, such as full:1, if not the one with the same reducer and keep."


def evaluate(
    data: Annotated[Path, typer.Argument(help=DATA)],
    model: o.Model = AUTO,
    sieve: o.Sieve = None,
    keep: Annotated[str, o.tokens_option("--keep", KEEPS)] = "1,0.2",
    reducer: Annotated[str, o.tokens_option("--reducer", f"Reducers, comma-separated; {o.AUTO_REDUCER}.")] = AUTO,
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
    baseline: Annotated[Path | None, typer.Option("--baseline", help=BASELINE)] = None,
    baseline_run: Annotated[str | None, typer.Option("--baseline-run", help=BASELINE_RUN)] = None,
    out: Annotated[Path | None, o.output_option("--out", "Write every answer here, as JSONL.")] = None,
    resume: Annotated[bool, o.output_option("--resume", RESUME)] = False,
    force: o.Force = False,
    json: o.Json = False,
) -> int:
    """Score a model on questions with known answers: exact match, by kind and regime, with 95 % intervals.

    Lettered choices are right by letter or text; an answer that names none, or several, is unparsed and wrong.
    A ratio of 1 in --keep is one run with all tokens (reducer full).
    Each reducer runs at each ratio below 1.
    Clips that cannot be read, or need more memory than is free, are reported as failed: neither right nor wrong.
    The exit code is then 3.
    Runs of the same questions are compared in pairs: with the run from all tokens, and with --baseline.
    """
    keeps, reducers = o.keeps(keep), o.reducers(reducer)
    read = o.media_options(fps, max_frames, no_audio, audio_track)
    load_options = o.load_options(sieve, quant, device, max_pixels, encode, dtype=dtype)
    generate = GenerateOptions(max_new_tokens)
    from echoingpixels.datasets.reading import read_questions

    rows = read_questions(data, limit, format, media)
    from echoingpixels.evaluation.evaluate import evaluate as run
    from echoingpixels.evaluation.evaluate import unknown
    from echoingpixels.evaluation.paired import within
    from echoingpixels.reducers.setting import settings

    which = choose(model, load_options, yes)
    reducers = named(which, reducers, keeps)
    chosen = settings(reducers, keeps)
    other, against = _baseline(baseline, baseline_run)
    if other is not None:
        other.check(rows, chosen, against)
    made = (which.name, which.load, read, generate)
    with _answers(out, resume, force, rows, chosen, made, (data, baseline)) as file, reading() as worker:
        loaded = load_model(which, reducers, keeps)
        known = unknown if file is None else file.known
        with console.progress("clips") as progress:
            runs = run(loaded, rows, chosen, read, generate, telling(file), progress, worker.stream, known)
    full = within(runs)
    beside = {} if other is None else {one.setting: other.beside(one, against) for one in runs}
    if json:
        console.out_json({"model": which.name, "data": str(data), "runs": [plain(one, full, beside) for one in runs]})
    else:
        for i, (header, cells) in enumerate(tables(runs, full, beside)):
            console.out("\n" if i else "", end="")
            console.columns(header, cells)
    if beside:
        console.pairs(remarks(beside))
    return ROWS_FAILED if any(one.score.failed for one in runs) else 0


def _baseline(path: Path | None, run: str | None) -> tuple[Baseline | None, Setting | None]:
    """What to compare with, and which of its runs if one is chosen."""
    if path is None:
        if run is not None:
            raise OptionError("--baseline-run says which run of --baseline.", "Give --baseline FILE, too.")
        return None, None
    from echoingpixels.evaluation.baseline import read_baseline
    from echoingpixels.reducers.setting import Setting

    found = read_baseline(path)
    if run is None:
        return found, None
    name, _, keep = run.partition(":")
    return found, Setting(check_reducer(name), o.keep_of(keep, "--baseline-run"))


def _answers(
    path: Path | None,
    resume: bool,
    force: bool,
    rows: Sequence[Row],
    chosen: Sequence[Setting],
    made: tuple[str, LoadOptions, MediaOptions, GenerateOptions],
    sources: Sequence[Path | None],
) -> AnswerFile | nullcontext[None]:
    """The file that answers go to, opened before the model is loaded; none without --out."""
    if resume and force:
        raise OptionError("--resume and --force are both given.", "Go on by --resume, or start again by --force.")
    if path is None:
        if resume or force:
            raise OptionError(f"{'--resume' if resume else '--force'} is about --out.", "Give --out FILE, too.")
        return nullcontext()
    media = dict.fromkeys(row.media for row in rows)
    check_sources(path, "--out", [*(source for source in sources if source is not None), *media])
    from echoingpixels.evaluation.answerfile import AnswerFile, made_with

    file = AnswerFile(path, rows, chosen, made_with(*made), resume, force)
    if len(file):
        console.say(f"going on: {len(file)} answers are in {path} already; times are of the others only")
    return file


def telling(file: AnswerFile | None = None) -> Callable[[Outcome], None]:
    """Takes each outcome: writes it to the file, if any, and reports each failed clip and each note once."""
    told: set[str] = set()

    def take(outcome: Outcome) -> None:
        if outcome.error and outcome.error not in told:
            told.add(outcome.error)
            console.say(f"failed: {outcome.error}")
        for note in set(outcome.notes) - told:
            told.add(note)
            console.say(f"note: {note}")
        if file is not None:
            file.write(outcome)

    return take
