"""`ep evaluate`: how many questions with known answers are answered right, by reducer and keep ratio."""

from __future__ import annotations

import json as encoding
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoingpixels.errors import DataError
from echoingpixels.options import GenerateOptions
from echoingpixels.questions import read_rows

from . import console
from . import options as o
from .model import load_model

if TYPE_CHECKING:
    from echoingpixels.evaluate import Outcome, Run
    from echoingpixels.score import Score

LONGEST = 32  # tokens of an answer


def evaluate(
    data: Annotated[Path, typer.Argument(help="JSONL: media, question, answer; also id, kind, regime, start, end.")],
    model: o.Model = "tiny",
    sieve: o.Sieve = None,
    keep: Annotated[str, o.tokens_option("--keep", "Shares to keep, comma-separated.")] = "1,0.2",
    reducer: Annotated[str, o.tokens_option("--reducer", "Reducers, comma-separated.")] = "cs2",
    quant: o.QuantName = "none",
    device: o.Device = "auto",
    fps: o.Fps = o.FPS,
    max_frames: o.MaxFrames = o.MAX_FRAMES,
    max_pixels: o.MaxPixels = None,
    no_audio: o.NoAudio = False,
    audio_track: o.AudioTrack = None,
    max_new_tokens: o.MaxNewTokens = LONGEST,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many questions.")] = None,
    out: Annotated[Path | None, o.output_option("--out", "Write every answer here, as JSONL.")] = None,
    json: o.Json = False,
) -> None:
    """Score a model on questions with known answers: exact match, by kind and regime, with 95 % intervals.

    A ratio of 1 in --keep is one run with all tokens (reducer full).
    Each reducer runs at each ratio below 1.
    Clips that cannot be read are reported as failed: neither right nor wrong.
    """
    keeps, reducers = o.ratios(keep), o.reducers(reducer)
    read = o.media_options(fps, max_frames, no_audio, audio_track)
    load_options = o.load_options(sieve, quant, device, max_pixels)
    generate = GenerateOptions(max_new_tokens)
    rows = read_rows(data, limit)
    loaded = load_model(model, load_options, reducers)
    from echoingpixels.evaluate import evaluate as run
    from echoingpixels.evaluate import settings

    with outcomes_to(out) as on_outcome, console.progress("clips") as progress:
        runs = run(loaded, rows, settings(reducers, keeps), read, generate, on_outcome, progress)
    if json:
        console.out_json({"model": model, "data": str(data), "runs": [_plain(one) for one in runs]})
    else:
        _tables(runs)


@contextmanager
def outcomes_to(path: Path | None) -> Iterator[Callable[[Outcome], None]]:
    """Takes each outcome: writes it to the file, if any, and says once which clips failed."""
    told: set[str] = set()
    try:
        file = path.open("w", encoding="utf-8") if path else None
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.", "Choose another --out.") from error

    def take(outcome: Outcome) -> None:
        if outcome.error and outcome.error not in told:
            told.add(outcome.error)
            console.say(f"failed: {outcome.error}")
        if file:
            file.write(encoding.dumps(_line(outcome), ensure_ascii=False) + "\n")
            file.flush()

    try:
        yield take
    finally:
        if file:
            file.close()


def _line(outcome: Outcome) -> dict[str, Any]:
    row = outcome.row
    return {
        "id": row.id,
        "media": str(row.media),
        "question": row.question,
        "kind": row.kind or None,
        "regime": row.regime or None,
        "reducer": outcome.setting.reducer,
        "keep": outcome.setting.keep,
        "answer": outcome.answer,
        "expected": row.answer,
        "right": outcome.right,
        "error": outcome.error,
    }


def _plain(run: Run) -> dict[str, Any]:
    """One entry of `runs`."""
    tokens = {**asdict(run.tokens), "kept_ratio": run.tokens.kept_ratio}
    by = {name: {key: asdict(one) for key, one in scores.items()} for name, scores in _groups(run)}
    return {**asdict(run.setting), **asdict(run.score), **by, "tokens": tokens, "time_s": run.time_s}


def _groups(run: Run) -> tuple[tuple[str, dict[str, Score]], ...]:
    return ("by_kind", run.by_kind), ("by_regime", run.by_regime)


def _tables(runs: list[Run]) -> None:
    header = ["reducer", "keep", "right", "95 % interval", "questions", "failed", "tokens kept", "time"]
    rows = []
    for run in runs:
        score = run.score
        interval = "" if score.interval is None else "–".join(f"{100 * x:.1f}" for x in score.interval)
        counts = [str(score.questions), str(score.failed), f"{100 * run.tokens.kept_ratio:.1f} %"]
        rows.append([*_name(run), _percent(score), interval, *counts, f"{run.time_s['total']:.1f} s"])
    console.columns(header, rows)
    for i, title in enumerate(("kind", "regime")):
        groups = [_groups(run)[i][1] for run in runs]
        names = list(dict.fromkeys(name for group in groups for name in group))
        if names:
            console.out("")
            header = [title, "questions", *(" ".join(_name(run)) for run in runs)]
            console.columns(header, [_group_row(name, groups) for name in names])


def _group_row(name: str, groups: list[dict[str, Score]]) -> list[str]:
    scores = [group[name] for group in groups]
    return [name, str(scores[0].questions), *(_percent(score) for score in scores)]


def _name(run: Run) -> tuple[str, str]:
    return run.setting.reducer, f"{run.setting.keep:g}"


def _percent(score: Score) -> str:
    return "–" if score.accuracy is None else f"{100 * score.accuracy:.1f} %"
