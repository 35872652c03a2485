"""`ep profile`: speed, memory and agreement of reducers and keep ratios, compared with all tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.errors import OptionError
from echoingpixels.options import AUTO, GenerateOptions, MediaOptions, ProfileOptions, check_question

from .. import console
from .. import options as o
from ..grouped import grouped
from ..render.evaluation import reporter
from ..render.profile import tables, write_csv
from ..session import Chosen, check_outfile, choose, load_model, reading

if TYPE_CHECKING:
    from echoingpixels.datasets.questions import Row
    from echoingpixels.media import Worker
    from echoingpixels.model import EchoingPixels
    from echoingpixels.profiling.profile import Profile

KEEPS = ",".join(f"{keep:g}" for keep in ProfileOptions.keeps)
DATA = "Also measure accuracy on these questions, a file as `ep evaluate` reads."


@dataclass(frozen=True, kw_only=True)
class ProfileTokens(o.SweepGroup):
    """Reducers and ratios to measure."""

    reducer: Annotated[
        str,
        o.tokens_option(
            "--reducer", "-r", help=f"Reducers, comma-separated; uniform and random always run. {o.AUTO_REDUCER}."
        ),
    ] = AUTO
    keep: Annotated[str, o.tokens_option("--keep", "-k", help="Ratios to keep, comma-separated.", metavar="RATIOS")] = (
        KEEPS
    )


@grouped
def profile(
    media: Annotated[Path, typer.Argument(help="A media file, or a folder: all video and audio files in it.")],
    question: Annotated[str, typer.Argument(help="The question about each clip.")],
    model: o.ModelGroup,
    tokens: ProfileTokens,
    read: o.MediaGroup,
    questions: o.QuestionGroup,
    output: o.FileGroup,
    data: Annotated[Path | None, o.questions_option("--data", help=DATA)] = None,
    csv: Annotated[Path | None, o.output_option("--csv", help="File to write a table to, one row per setting.")] = None,
    plot: Annotated[
        Path | None, o.output_option("--plot", help="File to plot speed, memory and agreement to: .png or .svg.")
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Measured rounds.")] = ProfileOptions.repeat,
    warm_up: Annotated[
        int, typer.Option("--warm-up", min=0, help="Rounds before the measured rounds.")
    ] = ProfileOptions.warm_up,
) -> None:
    """Measure speed, memory and agreement of reducers and keep ratios, compared with all tokens.

    Every round runs every setting, in a different order each time; figures are medians over the rounds.
    The feature cache is not used, since encoding is measured too.
    Ends with one recommended setting and the reason for it.
    """
    check_question(question)
    options = ProfileOptions(o.keeps(tokens.keep), o.reducers(tokens.reducer), repeat, warm_up)
    options_read, generate = read.media_options(), tokens.generate_options(model)
    load = model.load_options(read.max_pixels, 1.0)
    rows = _questions(data, questions, options_read)
    _check_outputs(csv, plot, [media, *([data] if data else [])], output.force)
    chosen = choose(model.model, load, model.yes)
    found = _profile(chosen, media, question, options, options_read, generate, rows)
    if output.json:
        console.out_json({"media": str(media), **found.as_dict(), "data": str(data) if data else None})
    else:
        _print(found)
    if csv:
        write_csv(found, csv)
    if plot:
        from echoingpixels.profiling.plot import draw

        draw(found, plot)


def _profile(
    chosen: Chosen,
    media: Path,
    question: str,
    options: ProfileOptions,
    read: MediaOptions,
    generate: GenerateOptions,
    rows: list[Row],
) -> Profile:
    """The measurements, with accuracy if there are questions."""
    with reading() as worker:
        from echoingpixels.media import find_clips

        clips = find_clips(media, worker.check)
        model = load_model(chosen, options.reducers)
        from echoingpixels.profiling.profile import profile as run

        with console.progress("answers") as progress:
            found = run(model, clips, question, options, read, generate, progress, worker.stream)
        return _scored(found, model, rows, read, generate, worker) if rows else found


def _questions(data: Path | None, questions: o.QuestionGroup, read: MediaOptions) -> list[Row]:
    """The questions of --data; none without it."""
    if data is not None:
        return questions.rows(data, read)
    given = {
        "--format": questions.format != AUTO,
        "--media": questions.clips is not None,
        "--limit": questions.limit is not None,
    }
    for option in (name for name, is_given in given.items() if is_given):
        raise OptionError(f"{option} needs --data.", "Add --data FILE.")
    return []


def _check_outputs(csv: Path | None, plot: Path | None, sources: list[Path], force: bool) -> None:
    """Checked before the measurements."""
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
    """The profile with the accuracy of each setting."""
    from echoingpixels.evaluation.evaluate import evaluate

    with console.progress("clips of questions") as progress:
        runs = evaluate(model, rows, found.settings, read, generate, reporter(), progress, worker.stream)
    return found.scored({run.setting: run.score for run in runs})


def _print(found: Profile) -> None:
    from echoingpixels.profiling.recommend import name

    for header, rows in tables(found):
        console.columns(header, rows)
        console.out("")
    best = found.recommended
    console.out(f"recommended: {name(best.setting)}. {best.reason}")
    failed = [("failed", reason) for reason in found.failed.values()]
    warnings = [("warning", text) for text in found.warnings]
    console.pairs([*failed, *warnings, *(("note", text) for text in found.notes)])
