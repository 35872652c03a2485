"""`ep evaluate`: accuracy on questions with known answers, by reducer and keep ratio."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.errors import OptionError
from echoingpixels.options import GenerateOptions, LoadOptions, MediaOptions
from echoingpixels.reducer_names import check_reducer

from .. import console
from .. import options as o
from ..grouped import grouped
from ..render.evaluation import plain, remarks, reporter, tables
from ..session import ROWS_FAILED, Chosen, check_model, check_sources, choose, load_model, named, reading

if TYPE_CHECKING:
    from echoingpixels.datasets.questions import Row
    from echoingpixels.evaluation.answerfile import AnswerFile
    from echoingpixels.evaluation.baseline import Baseline
    from echoingpixels.evaluation.evaluate import Run
    from echoingpixels.features.cache import FeatureCache
    from echoingpixels.reducers.setting import Setting

DATA = (
    "Questions: JSONL rows (media, question, answer; optionally id, kind, regime, choices, start, end), or the file "
    "of a published dataset."
)
LONGEST = 32  # tokens of an answer
BASELINE = "Compare question by question with an earlier evaluation: a file written by --out or --json."
BASELINE_RUN = "Run of the baseline to compare with, such as full:1, in place of the same reducer and ratio."
RESUME = "Continue --out: skip answered questions, retry failed questions."


@dataclass(frozen=True, kw_only=True)
class EvaluateTokens(o.SweepGroup):
    """Short answers."""

    max_new_tokens: o.MaxNewTokens = LONGEST


@grouped
def evaluate(
    data: Annotated[Path, typer.Argument(help=DATA)],
    model: o.ModelGroup,
    tokens: EvaluateTokens,
    read: o.MediaGroup,
    questions: o.QuestionGroup,
    output: o.FileGroup,
    baseline: Annotated[Path | None, o.questions_option("--baseline", help=BASELINE)] = None,
    baseline_run: Annotated[str | None, o.questions_option("--baseline-run", help=BASELINE_RUN)] = None,
    out: Annotated[Path | None, o.output_option("--out", "-o", help="File to write all answers to, as JSONL.")] = None,
    resume: Annotated[bool, o.output_option("--resume", help=RESUME)] = False,
) -> int:
    """Measure a model's accuracy on questions with known answers, by kind and regime, with 95 % intervals.

    Every reducer runs at every ratio below 1; a ratio of 1 is one run with all tokens (reducer full).
    A multiple-choice answer is right by its letter or text; an answer without a choice, or with several, is wrong.
    Clips that cannot be read or exceed memory are reported as failed, neither right nor wrong; the exit code is then 3.
    The start and end of a row replace --start and --end.
    Runs are compared question by question with the run from all tokens, and with --baseline.
    """
    keeps, reducers = o.keeps(tokens.keep), o.reducers(tokens.reducer)
    media, generate = read.media_options(), tokens.generate_options(model)
    from echoingpixels.evaluation.paired import within
    from echoingpixels.reducers.setting import settings

    load = model.load_options(read.max_pixels, max(one.keep for one in settings(reducers, keeps)))
    rows = questions.rows(data, media)
    which = choose(model.model, load, model.yes)
    reducers = named(which, reducers)
    chosen = settings(reducers, keeps)
    other, against = _baseline(baseline, baseline_run)
    if other is not None:
        other.check(rows, chosen, against)
    check_model(which, reducers)
    made = (which.name, which.load, media, generate)
    with _answers(out, resume, output.force, rows, chosen, made, (data, baseline)) as file:
        runs = _evaluate(which, rows, chosen, media, generate, file, model.feature_cache())
    full = within(runs)
    beside = {} if other is None else {one.setting: other.compare(one, against) for one in runs}
    if output.json:
        console.out_json({"model": which.name, "data": str(data), "runs": [plain(one, full, beside) for one in runs]})
    else:
        for i, (header, cells) in enumerate(tables(runs, full, beside)):
            console.out("\n" if i else "", end="")
            console.columns(header, cells)
    if beside:
        console.pairs(remarks(beside))
    return ROWS_FAILED if any(one.score.failed for one in runs) else 0


def _evaluate(
    which: Chosen,
    rows: Sequence[Row],
    chosen: Sequence[Setting],
    media: MediaOptions,
    generate: GenerateOptions,
    file: AnswerFile | None,
    cache: FeatureCache | None,
) -> list[Run]:
    """A run for each setting, without the answers that the file already holds."""
    from echoingpixels.evaluation.evaluate import evaluate as run
    from echoingpixels.evaluation.evaluate import unknown

    with reading() as worker:
        model = load_model(which)
        known = unknown if file is None else file.known
        with console.progress("clips") as progress:
            return run(
                model, rows, chosen, media, generate, reporter(file), progress, worker.stream, known, cache=cache
            )


def _baseline(path: Path | None, run: str | None) -> tuple[Baseline | None, Setting | None]:
    """The evaluation to compare with, and one of its runs if chosen."""
    if path is None:
        if run is not None:
            raise OptionError("--baseline-run needs --baseline.", "Add --baseline FILE.")
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
    """The file for answers, opened before the model is loaded; none without --out."""
    if resume and force:
        raise OptionError("--resume and --force are both given.", "Continue with --resume, or overwrite with --force.")
    if path is None:
        if resume or force:
            raise OptionError(f"{'--resume' if resume else '--force'} needs --out.", "Add --out FILE.")
        return nullcontext()
    media = dict.fromkeys(row.media for row in rows)
    check_sources(path, "--out", [*(source for source in sources if source is not None), *media])
    from echoingpixels.evaluation.answerfile import AnswerFile, made_with

    file = AnswerFile(path, rows, chosen, made_with(*made), resume, force)
    if len(file):
        console.say(f"resuming: {path} holds {len(file)} answers; times include only new answers")
    return file
