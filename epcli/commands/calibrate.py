"""`ep calibrate`: measures the number of tokens that a sieve needs for each quality, for `--keep auto`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.options import GenerateOptions, MediaOptions

from .. import console
from .. import options as o
from ..grouped import grouped
from ..render.evaluation import reporter
from ..session import Chosen, choose, load_model, reading
from .evaluate import LONGEST

if TYPE_CHECKING:
    from echoingpixels.datasets.questions import Row
    from echoingpixels.evaluation.calibrate import Calibration
    from echoingpixels.features.cache import FeatureCache

OUT = "Folder for a copy of the sieve with its calibration, in place of the sieve itself."


@dataclass(frozen=True, kw_only=True)
class CalibrateTokens(o.AnswerGroup):
    """Short answers; the command chooses the keep ratios."""

    max_new_tokens: o.MaxNewTokens = LONGEST


@grouped
def calibrate(
    data: Annotated[Path, typer.Argument(help="Questions as `ep evaluate` reads; not the sieve's training questions.")],
    model: o.ModelGroup,
    tokens: CalibrateTokens,
    read: o.MediaGroup,
    questions: o.QuestionGroup,
    output: o.FileGroup,
    out: Annotated[Path | None, o.output_option("--out", "-o", help=OUT)] = None,
) -> None:
    """Measure the number of tokens that a sieve needs for each level of accuracy, for --keep auto.

    Answers all questions from all tokens and at ten keep ratios, in one pass.
    Writes the calibration into the sieve's sieve.json.
    """
    media, generate = read.media_options(), tokens.generate_options(model)
    load = model.load_options(read.max_pixels)
    rows = questions.rows(data, media)
    from echoingpixels.checkpoints.loading import check_sieve
    from echoingpixels.evaluation.calibrate import sieve_to_write, write_calibration

    chosen = choose(model.model, load, model.yes)
    folder = sieve_to_write(check_sieve(chosen.name, chosen.load), out, output.force)
    found = _calibrate(chosen, rows, media, generate, model.feature_cache())
    write_calibration(folder, found.enough)
    if output.json:
        points = [asdict(point) for point in found.points]
        measured = {"accuracy": found.accuracy, "points": points}
        console.out_json({"model": chosen.name, "data": str(data), "sieve": str(folder), **measured})
    else:
        console.columns(*_table(found))
    console.pairs([("right from all tokens", f"{100 * found.accuracy:.1f} %"), ("written to", str(folder))])


def _calibrate(
    chosen: Chosen, rows: list[Row], media: MediaOptions, generate: GenerateOptions, cache: FeatureCache | None
) -> Calibration:
    from echoingpixels.evaluation.calibrate import calibrate as run

    with reading() as worker:
        model = load_model(chosen, ["cs2"])
        with console.progress("clips") as progress:
            return run(model, rows, media, generate, reporter(), progress, worker.stream, cache)


def _table(found: Calibration) -> tuple[list[str], list[list[str]]]:
    rows = [
        [f"{p.price:g}", f"{100 * p.kept_ratio:.1f} %", f"{100 * p.accuracy:.1f} %", f"{p.quality:.3f}"]
        for p in found.points
    ]
    return ["price", "tokens kept", "right", "quality"], rows
