"""Options that several commands share, and the library's option objects made of them. Knows nothing about commands.

Defaults are the library's own; values are checked there, when the objects are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from echoingpixels.errors import OptionError
from echoingpixels.options import (
    AUTO,
    KEEP,
    QUALITY,
    REDUCER_NAMES,
    Auto,
    GenerateOptions,
    Keep,
    LoadOptions,
    MediaOptions,
    Quant,
    check_reducer,
    read_keep,
)

ONE_KEEP, RATIOS = f"Give a ratio such as 0.2, or {AUTO}.", "Give ratios such as 1,0.2,0.05."
KEEP_TEXT = f"{KEEP:g}"
AUTO_REDUCER = f"{AUTO} takes cs2 where the model has a sieve, else relevance"
AUTO_HELP = f"{AUTO}[:QUALITY] (cs2): what it takes for that share of the full accuracy, {QUALITY:g} if not said"
ENCODE_TEXT = LoadOptions.encode
FPS, MAX_FRAMES, MAX_NEW_TOKENS = MediaOptions.fps, MediaOptions.max_frames, GenerateOptions.max_new_tokens
ENCODE = (
    "What the towers encode: plain (all), repeats[:THRESHOLD] (what looks as before is not encoded again, silence "
    "once), or glance[:SHARE] (all coarsely, that share of it closely); auto takes the model's own, else plain."
)
LOOKUP = "Guess up to that many tokens from the question and the answer so far; all are checked."
MODELS = "tiny, qwen2.5-omni-3b, qwen2.5-omni-7b, a hub id or a folder; auto: see `ep models default`."
QUANT = "none, nf4 or int8 (both need bitsandbytes); auto: what fits with --model auto, else none."
DTYPE = "bfloat16, float16 or float32; auto: by device."


def model_option(name: str, help: str) -> Any:
    """An option about the model."""
    return typer.Option(name, help=help, rich_help_panel="Model")


def tokens_option(name: str, help: str) -> Any:
    """An option about which tokens are kept."""
    return typer.Option(name, help=help, rich_help_panel="Tokens")


def media_option(name: str, help: str, metavar: str | None = None) -> Any:
    """An option about what is read."""
    return typer.Option(name, help=help, metavar=metavar, rich_help_panel="Media")


def output_option(name: str, help: str) -> Any:
    """An option about what is printed."""
    return typer.Option(name, help=help, rich_help_panel="Output")


Model = Annotated[str, model_option("--model", MODELS)]
Sieve = Annotated[
    str | None,
    model_option("--sieve", "Folder or hub id of trained CS2 weights, or the name of another one the model has."),
]
QuantName = Annotated[str, model_option("--quant", QUANT)]
Device = Annotated[str, model_option("--device", "auto, cpu, cuda or cuda:N.")]
DtypeName = Annotated[str, model_option("--dtype", DTYPE)]
Yes = Annotated[bool, model_option("--yes", "Download the model, if it is not on this machine, without asking.")]
MaxNewTokens = Annotated[int, model_option("--max-new-tokens", "The longest answer, in tokens.")]
Temperature = Annotated[float, model_option("--temperature", "0 takes the likeliest token, more draws.")]
Compile = Annotated[bool, model_option("--compile", "Compile the step after the first token: takes a while, once.")]
Lookup = Annotated[int, model_option("--prompt-lookup", LOOKUP)]
Reducer = Annotated[
    str, tokens_option("--reducer", f"How tokens are chosen: {', '.join(REDUCER_NAMES)}; {AUTO_REDUCER}.")
]
KeepText = Annotated[
    str, tokens_option("--keep", f"Share of audio and video tokens to keep, in (0, 1], or {AUTO_HELP}.")
]
Fps = Annotated[float, media_option("--fps", "Frames sampled per second.")]
MaxFrames = Annotated[int, media_option("--max-frames", "The most frames; more are spread over the whole clip.")]
EncodeText = Annotated[str, model_option("--encode", ENCODE)]
MaxPixels = Annotated[
    int | None, media_option("--max-pixels", "The most pixels of a frame or image, in place of the model's own limits.")
]
Start = Annotated[str | None, media_option("--start", "Begin here: seconds, or 1:30.", "TIME")]
End = Annotated[str | None, media_option("--end", "Stop here: seconds, or 1:30.", "TIME")]
NoAudio = Annotated[bool, media_option("--no-audio", "Leave the sound out.")]
AudioTrack = Annotated[int | None, media_option("--audio-track", "Which sound track, from 0, if not the default one.")]
Format = Annotated[
    str,
    typer.Option("--format", help="Of the questions, such as daily-omni; auto tells it by their keys."),
]
Clips = Annotated[Path | None, typer.Option("--media", help="The folder of the clips, if not the questions' own.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many questions.")]
CacheDir = Annotated[
    Path | None, model_option("--cache-dir", "Folder of kept features and quantized weights, if not the user's cache.")
]
NoCache = Annotated[bool, model_option("--no-cache", "Keep nothing, and take nothing that was kept.")]
Compare = Annotated[bool, output_option("--compare", "Run with all tokens too: measured speedup, both answers.")]
DryRun = Annotated[bool, output_option("--dry-run", "Predict tokens and cost; run nothing.")]
Show = Annotated[bool, output_option("--show", "Draw what was kept, and when it is.")]
Force = Annotated[bool, output_option("--force", "Overwrite a file that exists.")]
Json = Annotated[bool, output_option("--json", "Print JSON.")]
NoStream = Annotated[bool, output_option("--no-stream", "Print each answer whole.")]


def media_options(
    fps: float,
    max_frames: int,
    no_audio: bool,
    audio_track: int | None,
    start: str | None = None,
    end: str | None = None,
) -> MediaOptions:
    """How to read a clip, checked."""
    return MediaOptions(
        fps=fps,
        max_frames=max_frames,
        start=None if start is None else seconds(start),
        end=None if end is None else seconds(end),
        audio=not no_audio,
        audio_track=audio_track,
    )


def load_options(
    sieve: str | None,
    quant: str,
    device: str,
    max_pixels: int | None,
    encode: str,
    cache_dir: Path | None = None,
    no_cache: bool = False,
    dtype: str = AUTO,
) -> LoadOptions:
    """How to load a model, checked. Quantized weights are kept, beside the features."""
    cache = None if quant == "none" or no_cache else weights_folder(cache_dir)
    return LoadOptions(cast(Quant, quant), device, sieve, max_pixels, cache, encode, dtype)


def weights_folder(given: Path | None) -> Path:
    """Where quantized weights are kept."""
    from echoingpixels.features.cache import caches

    return (given or caches()) / "quantized"


def features_folder(given: Path | None) -> Path:
    """Where features are kept, beside the quantized weights."""
    from echoingpixels.features.cache import FEATURES, caches

    return (given or caches()) / FEATURES


def cache_folder(given: Path | None, no_cache: bool) -> Path | None:
    """Where features are kept; None for nowhere."""
    return None if no_cache else features_folder(given)


def keep_of(text: str, option: str = "--keep", hint: str = ONE_KEEP) -> Keep:
    """A keep from `0.2` or `auto:0.95`, checked."""
    try:
        return read_keep(text)
    except ValueError:
        raise OptionError(f"{option} has {text!r}, which is no number.", hint) from None


def keeps(text: str) -> tuple[Keep, ...]:
    """Keeps from `1,0.2,auto`, checked."""
    return tuple(keep_of(part, hint=f"{RATIOS[:-1]}, or {AUTO}.") for part in text.split(","))


def ratios(text: str) -> tuple[float, ...]:
    """Keep ratios from `1,0.2,0.05`, checked."""
    found = [keep_of(part, hint=RATIOS) for part in text.split(",")]
    if any(isinstance(keep, Auto) for keep in found):
        raise OptionError(f"--keep has {AUTO}, which is no ratio.", RATIOS)
    return tuple(keep for keep in found if not isinstance(keep, Auto))


def reducers(text: str) -> tuple[str, ...]:
    """Names from `cs2,uniform`, checked."""
    return tuple(check_reducer(part.strip()) for part in text.split(","))


def seconds(text: str) -> float:
    """Seconds from `12.5`, `1:30` or `1:02:03.5`."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3:
        raise OptionError(f"{text!r} is not a time.", "Give seconds, such as 12.5, or 1:30.")
    return float(sum(part * 60**power for power, part in enumerate(reversed(parts))))
