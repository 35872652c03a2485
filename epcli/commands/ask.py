"""`ep ask`: questions about one clip."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.options import AskOptions, MediaOptions, check_question

from .. import console
from .. import options as o
from ..grouped import grouped
from ..render.report import Result
from ..render.tokens import picture
from ..session import Chosen, choose, load_model, planned, reading

if TYPE_CHECKING:
    from echoingpixels.encoded_clip import EncodedClip
    from echoingpixels.features.cache import FeatureCache
    from echoingpixels.generation.answer import Answer
    from echoingpixels.media import Worker


@dataclass(frozen=True, kw_only=True)
class AskOutput(o.OutputGroup):
    """How answers are printed."""

    report: Annotated[
        bool, o.output_option("--report", help="Print the full report: tokens, time by stage, memory, compute.")
    ] = False
    compare: Annotated[
        bool, o.output_option("--compare", help="Also answer from all tokens: measured speedup, both answers.")
    ] = False
    dry_run: Annotated[
        bool, o.output_option("--dry-run", help="Estimate tokens, memory and compute without running the model.")
    ] = False
    show: Annotated[bool, o.output_option("--show", help="Print a chart of the kept tokens by modality and time.")] = (
        False
    )
    no_stream: Annotated[
        bool, o.output_option("--no-stream", help="Print each answer when it is complete, not token by token.")
    ] = False

    @property
    def full(self) -> bool:
        """Whether the full report is printed."""
        return self.report or self.compare or self.dry_run

    @property
    def stream(self) -> bool:
        """Whether answers are printed token by token."""
        return sys.stdout.isatty() and not (self.no_stream or self.json or self.compare)


@dataclass(frozen=True)
class Request:
    """The checked arguments."""

    media: Path
    questions: tuple[str, ...]
    model: Chosen
    read: MediaOptions
    ask: AskOptions
    cache: FeatureCache | None


@grouped
def ask(
    media: Annotated[Path, typer.Argument(help="A video, audio or image file.")],
    question: Annotated[list[str], typer.Argument(help="One or more questions; the clip is encoded once.")],
    model: o.ModelGroup,
    tokens: o.TokenGroup,
    read: o.MediaGroup,
    output: AskOutput,
) -> None:
    """Answer questions about a video, audio or image file.

    Prints the answers to stdout, and one line of statistics for each answer to stderr.
    With --json, prints one JSON object per question to stdout.
    """
    printed: set[tuple[str, str]] = set()
    with reading() as worker:  # it starts while torch is imported
        ask = replace(tokens.ask_options(model), reuse_prefix=len(question) > 1)
        load = model.load_options(read.max_pixels, 1.0 if output.compare else ask.share)
        request = Request(
            media,
            tuple(map(check_question, question)),
            planned(model.model, load) if output.dry_run else choose(model.model, load, model.yes),
            read.media_options(),
            ask,
            None if output.compare else model.feature_cache(),  # a comparison times the whole path
        )
        worker.check(media)
        for result in _plans(request, worker) if output.dry_run else _answers(request, output, worker):
            if output.json:
                console.out_json(result.as_dict())
            elif output.full:
                console.pairs(result.lines())
            else:
                console.summary(result.summary())
                console.pairs([remark for remark in result.remarks() if remark not in printed])
                printed.update(result.remarks())


def _plans(request: Request, worker: Worker) -> Iterator[Result]:
    """Estimated results; no weights are read."""
    from echoingpixels.inputs.prepare import extent_of
    from echoingpixels.planning.meta_model import outline
    from echoingpixels.planning.plan import plan

    drawn = outline(request.model.name, request.model.load)
    extent = extent_of(worker.outline(request.media, request.read, frame_size=drawn.model.frame_size))
    source = extent.ending.source
    for question in request.questions:
        predicted = plan(drawn, extent, question, request.ask)
        yield Result(
            media=str(request.media),
            question=question,
            model=request.model.name,
            options=predicted.options,
            quant=request.model.load.quant,
            device=predicted.device,
            report=predicted.report,
            warnings=(*source.warnings, *predicted.warnings),
            notes=source.notes,
            plan=predicted,
        )


def _answers(request: Request, output: AskOutput, worker: Worker) -> Iterator[Result]:
    """Results of real runs; answers are printed as they are generated."""
    model = load_model(request.model, [request.ask.reducer])
    with console.working(f"Encoding {request.media.name} …"):
        clip = model.encode(request.media, request.read, cache=request.cache, reader=worker.stream)
    for question in request.questions:
        answer, full = _answer(clip, question, request.ask, output, several=len(request.questions) > 1)
        if output.show:
            console.pairs(picture(answer, clip.duration))
        yield Result.of(str(request.media), question, request.model.name, model, answer, full)


def _answer(
    clip: EncodedClip, question: str, options: AskOptions, output: AskOutput, several: bool
) -> tuple[Answer, Answer | None]:
    """The printed answer and, with --compare, the answer from all tokens."""
    if output.stream:
        return console.stream(clip.stream(question, options)), None
    full: Answer | None = None
    with console.working("Answering …"):
        if output.compare:
            answer, full = clip.compare(question, options)
        else:
            answer = clip.ask(question, options)
    if not output.json:
        console.out(" ".join(answer.text.split()) if several else answer.text)
    return answer, full
