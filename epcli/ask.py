"""`ep ask`: questions about one clip."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoingpixels.options import AUTO, AskOptions, GenerateOptions, MediaOptions, check_question

from . import console
from . import options as o
from .model import Chosen, choose, load_model, planned
from .reading import reading
from .report import Result
from .show import picture

if TYPE_CHECKING:
    from echoingpixels.encoded_clip import EncodedClip
    from echoingpixels.generation.answer import Answer
    from echoingpixels.looking import View as Seen
    from echoingpixels.media import Worker
    from echoingpixels.model import EchoingPixels


CACHED = "The clip was known: nothing was decoded or encoded (--no-cache does both)."


@dataclass(frozen=True)
class Request:
    """What is asked for, checked."""

    media: Path
    questions: tuple[str, ...]
    model: Chosen
    read: MediaOptions
    ask: AskOptions
    cache: Path | None  # folder of what the towers made of clips


@dataclass(frozen=True)
class View:
    """How it is shown."""

    compare: bool
    show: bool
    json: bool
    stream: bool


def ask(
    media: Annotated[Path, typer.Argument(help="A video, sound or image file.")],
    question: Annotated[list[str], typer.Argument(help="One or more; the clip is read and encoded once.")],
    model: o.Model = AUTO,
    sieve: o.Sieve = None,
    reducer: o.Reducer = AUTO,
    keep: o.KeepText = o.KEEP_TEXT,
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
    temperature: o.Temperature = 0.0,
    compile: o.Compile = False,
    prompt_lookup: o.Lookup = 0,
    cache_dir: o.CacheDir = None,
    no_cache: o.NoCache = False,
    compare: o.Compare = False,
    dry_run: o.DryRun = False,
    show: o.Show = False,
    json: o.Json = False,
    no_stream: o.NoStream = False,
) -> None:
    """Answer questions about a clip, from the audio and video tokens that matter.

    Answers go to stdout, one a line, and the report to stderr.
    With --json, stdout gets one JSON object a question, one a line.
    """
    generate = GenerateOptions(max_new_tokens, temperature, compile=compile, lookup=prompt_lookup)
    load = o.load_options(sieve, quant, device, max_pixels, encode, cache_dir, no_cache, dtype=dtype)
    request = Request(
        media,
        tuple(map(check_question, question)),
        planned(model, load) if dry_run else choose(model, load, yes),
        o.media_options(fps, max_frames, no_audio, audio_track, start, end),
        AskOptions(reducer, o.keep_of(keep), generate),
        o.cache_folder(cache_dir, no_cache),
    )
    view = View(compare, show, json, sys.stdout.isatty() and not (no_stream or json or compare))
    with reading() as worker:
        for result in _plans(request, worker) if dry_run else _answers(request, view, worker):
            if json:
                console.out_json(result.as_dict())
            else:
                console.pairs(result.lines())


def _plans(request: Request, worker: Worker) -> Iterator[Result]:
    """Predicted results; no weights are read."""
    worker.check(request.media)
    from echoingpixels.inputs.prepare import extent_of
    from echoingpixels.planning.meta_model import outline
    from echoingpixels.planning.plan import plan

    drawn = outline(request.model.name, request.model.load)
    extent = extent_of(worker.outline(request.media, replace(request.read, frame_size=drawn.model.frame_size)))
    source = extent.ending.source
    for question in request.questions:
        predicted = plan(drawn, extent, question, request.ask)
        warnings = (*source.warnings, *predicted.warnings)
        yield Result(
            media=str(request.media),
            question=question,
            model=request.model.name,
            options=predicted.options,
            quant=request.model.load.quant,
            device=predicted.device,
            report=predicted.report,
            warnings=warnings,
            notes=source.notes,
            plan=predicted,
        )


def _answers(request: Request, view: View, worker: Worker) -> Iterator[Result]:
    """Results of real runs; answers are printed as they come."""
    worker.check(request.media)
    from echoingpixels.checkpoints.fingerprint import features_mark, file_mark
    from echoingpixels.checkpoints.loading import weights_of
    from echoingpixels.features.cache import FeatureCache, seen_key
    from echoingpixels.looking import look_at

    model = load_model(request.model, [request.ask.reducer], [request.ask.keep])
    request = replace(request, ask=request.ask.settled(model.sieve is not None))
    cache, key = None, ""
    if request.cache is not None and not view.compare:  # a comparison times the whole way
        cache = FeatureCache(request.cache)
        mark = features_mark(request.media, file_mark(request.media))
        key = seen_key(mark, weights_of(request.model.name, request.model.load).encoders, request.read)
    with console.working(f"Looking at {request.media.name} …"):
        read = partial(worker.stream, request.media, replace(request.read, frame_size=model.frame_size))
        seen = look_at(model, request.media, read, cache, key)
    try:
        for question in request.questions:
            answer, full = _answer(seen.looked, question, request, view)
            if view.show:
                console.pairs(picture(answer, seen.duration))
            yield _result(request, question, seen, model, answer, full)
    finally:
        seen.keep()


def _answer(looked: EncodedClip, question: str, request: Request, view: View) -> tuple[Answer, Answer | None]:
    """Answer, print unless JSON is wanted, and give the full run's answer where it was made."""
    if view.stream:
        return _streamed(looked, question, request), None
    full: Answer | None = None
    with console.working("Answering …"):
        if view.compare:
            answer, full = looked.compare(question, request.ask)
        else:
            answer = looked.answer(question, request.ask)
    if not view.json:
        console.out(answer.text if len(request.questions) == 1 else " ".join(answer.text.split()))
    return answer, full


def _streamed(looked: EncodedClip, question: str, request: Request) -> Answer:
    answer: Answer | None = None
    for chunk in looked.stream(question, request.ask):
        console.out(chunk.text, end="")
        answer = chunk.answer
    console.out("")
    assert answer is not None, "the last chunk carries the answer"
    return answer


def _result(
    request: Request, question: str, seen: Seen, model: EchoingPixels, answer: Answer, full: Answer | None
) -> Result:
    return Result(
        media=str(request.media),
        question=question,
        model=request.model.name,
        options=request.ask,
        quant=model.quant,
        device=model.backbone.device.type,
        report=answer.report,
        warnings=(*seen.source.warnings, *answer.warnings),
        notes=(*seen.source.notes, *model.notes(request.ask.reducer), *((CACHED,) if seen.cached else ())),
        answer=answer,
        full=full,
    )
