"""Options that several commands share: groups of options, each defined once, and the library objects made of them.

A command takes a group as one parameter, and `grouped` expands its fields into options. A command that needs another
default or help text declares a subclass of the group. The library checks the values when its objects are made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from echoingpixels.errors import OptionError
from echoingpixels.options import (
    AUTO,
    KEEP,
    NO_SIEVE,
    AskOptions,
    GenerateOptions,
    LoadOptions,
    MediaOptions,
    Quant,
    check_keep,
    read_reuse,
)
from echoingpixels.options.encoder_keep import OFF, read_encoder_keep
from echoingpixels.reducer_names import SIEVE_DEFAULT, UNSIEVED, check_reducer

if TYPE_CHECKING:
    from echoingpixels.datasets.questions import Row
    from echoingpixels.features.cache import FeatureCache

REDUCERS = (  # without those for ablations
    "cs2 and cs2-maxmin (a trained sieve), maxmin and maxmin-floors (diversity), diverse (diversity by window), "
    "relevance and relevance-maxmin (attention of the question), seats and fastv (inside the decoder, by attention "
    "of the last token), repeats (difference to the previous step), uniform, random, full (all tokens)"
)
AUTO_REDUCER = f"{AUTO}: {SIEVE_DEFAULT} if the model has a sieve, else {UNSIEVED}"
MODELS = "tiny, qwen2.5-omni-3b, qwen2.5-omni-7b, a Hugging Face id or a folder; auto: see `ep models default`."
SIEVE = (
    "Trained token selector for --reducer cs2: a folder, a Hugging Face id, or the name of a sieve of the model; "
    f"{NO_SIEVE}: load the model without its sieve."
)
QUANT = "Quantization: none, nf4 or int8 (need bitsandbytes); auto: the best that fits with --model auto, else none."
DTYPE = "Data type of the weights: bfloat16, float16 or float32; auto: by device."
REUSE = (
    "Reuse the vision and audio features of unchanged windows: a threshold such as 0.1, "
    f"{OFF}, or {AUTO} (the model's own setting)."
)
ENCODER_KEEP = (
    "Share of each frame's video tokens that the vision encoder keeps inside: 0.3, 3x (of --keep), 0.3@8,0.15@16 "
    f"(after these layers), 0.3:states or :places (by these alone); {OFF}: all; {AUTO}: the model's own setting."
)


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


model_option, tokens_option, media_option, questions_option, output_option, server_option = (
    partial(_option, panel) for panel in ("Model", "Tokens", "Media", "Questions", "Output", "Server")
)

ENGINES = ("local", "ray")

QuantName = Annotated[str, model_option("--quant", "-q", help=QUANT)]
Device = Annotated[str, model_option("--device", help=f"Device: {AUTO}, cpu, cuda or cuda:N.")]
CacheDir = Annotated[
    Path | None,
    model_option("--cache-dir", help="Folder for cached features and quantized weights, in place of the user's cache."),
]
MaxNewTokens = Annotated[int, tokens_option("--max-new-tokens", help="Maximum number of tokens of an answer.")]
Json = Annotated[bool, output_option("--json", help="Print JSON to stdout.")]


@dataclass(frozen=True, kw_only=True)
class ModelGroup:
    """Which model answers, and how it is loaded and run."""

    model: Annotated[str, model_option("--model", "-m", help=MODELS)] = AUTO
    sieve: Annotated[str | None, model_option("--sieve", help=SIEVE)] = None
    quant: QuantName = AUTO
    dtype: Annotated[str, model_option("--dtype", help=DTYPE)] = AUTO
    device: Device = AUTO
    yes: Annotated[bool, model_option("--yes", help="Download the model without asking, if it is not present.")] = False
    reuse: Annotated[str, model_option("--reuse", help=REUSE, metavar="THRESHOLD")] = AUTO
    encoder_keep: Annotated[str, model_option("--encoder-keep", help=ENCODER_KEEP, metavar="SHARE")] = AUTO
    compile: Annotated[
        bool, model_option("--compile", help="Compile decoding with torch.compile; the first answer is slower.")
    ] = False
    cache_dir: CacheDir = None
    no_cache: Annotated[
        bool, model_option("--no-cache", help="Neither read nor write cached features and quantized weights.")
    ] = False

    def load_options(self, max_pixels: int | None = None, keep: float | None = None) -> LoadOptions:
        """How to load the model, to keep at most this share of the tokens. Quantized weights are cached, too."""
        return LoadOptions(
            quant=cast(Quant, self.quant),
            device=self.device,
            sieve=self.sieve,
            max_pixels=max_pixels,
            cache=None if self.quant == "none" or self.no_cache else cache_folders(self.cache_dir)[1],
            reuse=read_reuse(self.reuse),
            dtype=self.dtype,
            encoder_keep=read_encoder_keep(self.encoder_keep),
            keep=keep,
        )

    @property
    def features(self) -> Path | None:
        """Folder of the feature cache; None if it is disabled."""
        return None if self.no_cache else cache_folders(self.cache_dir)[0]

    def feature_cache(self) -> FeatureCache | None:
        """The feature cache; None if it is disabled."""
        from echoingpixels.features.cache import FeatureCache

        return None if self.features is None else FeatureCache(self.features)


@dataclass(frozen=True, kw_only=True)
class ChoiceGroup:
    """How tokens are selected."""

    reducer: Annotated[
        str,
        tokens_option("--reducer", "-r", help=f"Method that selects tokens: {REDUCERS}. {AUTO_REDUCER}."),
    ] = AUTO
    keep: Annotated[
        str,
        tokens_option("--keep", "-k", help="Share of the audio and video tokens to keep, in (0, 1].", metavar="RATIO"),
    ] = f"{KEEP:g}"


@dataclass(frozen=True, kw_only=True)
class AnswerGroup:
    """How answers are decoded."""

    max_new_tokens: MaxNewTokens = GenerateOptions.max_new_tokens
    temperature: Annotated[
        float, tokens_option("--temperature", help="Sampling temperature; 0 is greedy decoding.")
    ] = GenerateOptions.temperature

    def generate_options(self, model: ModelGroup) -> GenerateOptions:
        """How to decode answers."""
        return GenerateOptions(self.max_new_tokens, self.temperature, compile=model.compile)


@dataclass(frozen=True, kw_only=True)
class TokenGroup(AnswerGroup, ChoiceGroup):
    """How tokens are selected and answers decoded."""

    evidence: Annotated[
        bool, tokens_option("--evidence/--no-evidence", help="Find the moments of the clip that an answer rests on.")
    ] = True

    def ask_options(self, model: ModelGroup) -> AskOptions:
        """How to answer one question."""
        return AskOptions(self.reducer, keep_of(self.keep), self.generate_options(model), self.evidence)


@dataclass(frozen=True, kw_only=True)
class SweepGroup(AnswerGroup, ChoiceGroup):
    """The same, without evidence, for commands that compare several reducers and ratios."""

    reducer: Annotated[
        str,
        tokens_option("--reducer", "-r", help=f"Reducers, comma-separated: {REDUCERS}. {AUTO_REDUCER}."),
    ] = AUTO
    keep: Annotated[
        str,
        tokens_option("--keep", "-k", help="Ratios to keep, comma-separated.", metavar="RATIOS"),
    ] = "1,0.2"


@dataclass(frozen=True, kw_only=True)
class MediaGroup:
    """The part of a clip to read."""

    fps: Annotated[float, media_option("--fps", help="Frames sampled per second.")] = MediaOptions.fps
    max_frames: Annotated[
        int, media_option("--max-frames", help="Maximum number of frames; longer clips are sampled uniformly.")
    ] = MediaOptions.max_frames
    max_pixels: Annotated[
        int | None,
        media_option("--max-pixels", help="Maximum pixels of a frame or image, in place of the model's limit."),
    ] = None
    start: Annotated[str | None, media_option("--start", help="From: seconds, MM:SS, HH:MM:SS.", metavar="TIME")] = None
    end: Annotated[str | None, media_option("--end", help="To: seconds, MM:SS, HH:MM:SS.", metavar="TIME")] = None
    no_audio: Annotated[bool, media_option("--no-audio", help="Ignore the audio.")] = False
    audio_track: Annotated[
        int | None, media_option("--audio-track", help="Audio track, counted from 0, in place of the default track.")
    ] = None
    hwaccel: Annotated[str, media_option("--hwaccel", help="Hardware decoder of FFmpeg, such as cuda.")] = OFF

    def media_options(self) -> MediaOptions:
        """How to read a clip."""
        if self.hwaccel != OFF:
            from echoingpixels.media.container import check_hwaccel  # imports FFmpeg

            check_hwaccel(self.hwaccel)
        return MediaOptions(
            fps=self.fps,
            max_frames=self.max_frames,
            start=None if self.start is None else seconds(self.start),
            end=None if self.end is None else seconds(self.end),
            audio=not self.no_audio,
            audio_track=self.audio_track,
            hwaccel=self.hwaccel,
        )


@dataclass(frozen=True, kw_only=True)
class QuestionGroup:
    """How a file of questions is read."""

    format: Annotated[
        str,
        questions_option("--format", help=f"Format of the questions, such as daily-omni. {AUTO}: detected."),
    ] = AUTO
    clips: Annotated[
        Path | None, questions_option("--media", help="Folder of the clips, in place of the question file's folder.")
    ] = None
    limit: Annotated[int | None, questions_option("--limit", min=1, help="Read only the first N questions.")] = None

    def rows(self, path: Path, read: MediaOptions) -> list[Row]:
        """The questions of a file. The start and end of `read` apply to rows without their own."""
        from echoingpixels.datasets.reading import read_questions

        rows = read_questions(path, self.limit, self.format, self.clips)
        return [
            replace(
                row,
                start=read.start if row.start is None else row.start,
                end=read.end if row.end is None else row.end,
            )
            for row in rows
        ]


@dataclass(frozen=True, kw_only=True)
class OutputGroup:
    """How results are printed."""

    json: Json = False


@dataclass(frozen=True, kw_only=True)
class FileGroup(OutputGroup):
    """The same for commands that write a file."""

    force: Annotated[bool, output_option("--force", help="Overwrite an existing file.")] = False


def check_engine(name: str) -> None:
    """OptionError for an unknown engine."""
    if name not in ENGINES:
        raise OptionError(f"Unknown engine {name!r}.", f"Known: {', '.join(ENGINES)}.")


def cache_folders(given: Path | None) -> tuple[Path, Path]:
    """Folders of cached features and of quantized weights."""
    from echoingpixels.features.cache import FEATURES, caches

    folder = given or caches()
    return folder / FEATURES, folder / "quantized"


def keep_of(text: str, option: str = "--keep", hint: str = "Give a ratio such as 0.2.") -> float:
    """A keep ratio from `0.2`, checked."""
    try:
        return check_keep(float(text))
    except ValueError:
        raise OptionError(f"{option} has {text!r}, which is not a number.", hint) from None


def keeps(text: str) -> tuple[float, ...]:
    """Keep ratios from `1,0.2,0.05`, checked."""
    return tuple(keep_of(part, hint="Give ratios such as 1,0.2,0.05.") for part in text.split(","))


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
