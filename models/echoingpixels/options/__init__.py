"""The options of the library, validated once when they are made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import OptionError
from ..reducer_names import AUTO as AUTO
from ..reducer_names import IN_DECODER, NO_STATIC, SIEVE_DEFAULT, UNSIEVED, check_reducer
from .encoder_keep import OFF, EncoderKeep

KEEP = 0.2  # default share of audio and video tokens, which the sieve is trained at
MIN_PIXELS = 56 * 56  # of a frame: 2 x 2 tokens
NO_SIEVE = "none"  # in place of a sieve
REUSE_HINT = "Give a threshold of at least 0 such as 0.1, off or auto."
Quant = Literal["none", "nf4", "int8"]
QUANTS: tuple[Quant, ...] = ("none", "nf4", "int8")
DTYPES = ("bfloat16", "float16", "float32")
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
Reuse = float | None


def check_keep(keep: float) -> float:
    """Return a keep ratio in (0, 1], else raise OptionError."""
    if not 0 < keep <= 1:
        hint = "Give the share of audio and video tokens to keep, such as 0.1."
        raise OptionError(f"keep is {keep:g}, outside (0, 1].", hint)
    return keep


def reducer_of(name: str, has_sieve: bool) -> str:
    """The reducer that a name stands for: auto is SIEVE_DEFAULT for a model with a sieve, else UNSIEVED."""
    if name != AUTO:
        return name
    return SIEVE_DEFAULT if has_sieve else UNSIEVED


def check_choice(reducer: str, keep: float) -> None:
    """OptionError for an unknown reducer, or a ratio out of range."""
    check_reducer(reducer)
    check_keep(keep)


def is_unicode(text: str) -> bool:
    """False for text with lone surrogates, as decoded from bytes that are not UTF-8: no tokenizer accepts it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_question(text: str) -> str:
    """Return a question that is not blank and is valid text, else raise OptionError."""
    if not text.strip():
        raise OptionError("A question is empty.", "Write the question in quotes.")
    if not is_unicode(text):
        raise OptionError(f"{text!r} is not valid text.", "Give the question as UTF-8.")
    return text


@dataclass(frozen=True)
class MediaOptions:
    """How to read a clip.

    `fps`: frames sampled per second of the source. `max_frames`: the most frames kept; a longer clip is sampled more
    sparsely over its whole span, never cut. `start`, `end`: the part to read, in seconds of the source. `audio`:
    whether to read the sound; `audio_track`: which track, counted from 0 (None: the default one).
    `hwaccel`: FFmpeg's name of a hardware decoder, such as cuda, or off; where it fails, software decodes.
    """

    fps: float = 2.0
    max_frames: int = 120
    start: float | None = None  # s
    end: float | None = None  # s
    audio: bool = True
    audio_track: int | None = None
    hwaccel: str = OFF

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise OptionError(f"fps is {self.fps}.", "Give a positive number of frames per second, such as 2.")
        if self.max_frames < 1:
            raise OptionError(f"max_frames is {self.max_frames}.", "Give at least 1 frame.")
        for name, time in (("start", self.start), ("end", self.end)):
            if time is not None and not (math.isfinite(time) and time >= 0):
                raise OptionError(f"{name} is {time} s.", "Give seconds from the beginning of the file, 0 or more.")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise OptionError(
                f"start ({self.start or 0:g} s) is not before end ({self.end:g} s).", "Give a start below the end."
            )
        if self.audio_track is not None and self.audio_track < 0:
            raise OptionError(f"audio_track is {self.audio_track}.", "Tracks are counted from 0.")


@dataclass(frozen=True)
class GenerateOptions:
    """How to decode an answer.

    `max_new_tokens`: the longest answer. `temperature`: 0 is greedy; otherwise tokens are drawn with `seed`.
    `static`: decoding uses a KV cache of fixed length. `compile`: the same, and the decoding step is compiled.
    `stop`: texts that end an answer, which is cut before the first of them.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    static: bool = False
    compile: bool = False
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(self.stop):
            raise OptionError("A stop text is empty.", "Leave it out.")
        if self.max_new_tokens < 1:
            raise OptionError(f"max_new_tokens is {self.max_new_tokens}.", "Ask for at least 1 token.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise OptionError(f"temperature is {self.temperature:g}.", "Give 0 for greedy decoding, or more.")


@dataclass(frozen=True)
class AskOptions:
    """How to choose tokens and decode an answer; see `reducer_of` for the reducer auto."""

    reducer: str = AUTO
    keep: float = KEEP
    generate: GenerateOptions = GenerateOptions()
    evidence: bool = True  # whether to find the moments that the answer rests on, after its last token
    reuse_prefix: bool = True  # whether answers about one clip share its KV cache, if the reducer reads no question

    def __post_init__(self) -> None:
        check_choice(self.reducer, self.keep)
        if self.reducer in IN_DECODER and (self.generate.static or self.generate.compile):
            raise OptionError(*NO_STATIC)

    @property
    def share(self) -> float:
        """The share of audio and video tokens that is kept at most: all of them by the reducer full."""
        return 1.0 if self.reducer == "full" else self.keep

    def resolved(self, has_sieve: bool) -> AskOptions:
        """The same with the real name of the reducer, for a model with or without a sieve."""
        return replace(self, reducer=reducer_of(self.reducer, has_sieve))

    def updated(self, keywords: dict[str, Any]) -> AskOptions:
        """The same with some options changed; those of GenerateOptions are taken as well. OptionError for others."""
        own, generate = split_keywords(keywords, AskOptions, GenerateOptions)
        changed = replace(self, **own) if own else self
        return replace(changed, generate=replace(changed.generate, **generate)) if generate else changed


def split_keywords(keywords: dict[str, Any], *groups: type[Any]) -> list[dict[str, Any]]:
    """Keyword options by the option class that has them. OptionError for an unknown one, with all known ones."""
    known = [tuple(field.name for field in fields(group)) for group in groups]
    unknown = [name for name in keywords if not any(name in names for names in known)]
    if unknown:
        every = ", ".join(name for names in known for name in names)
        raise OptionError(f"Unknown option {unknown[0]!r}.", f"Known options: {every}.")
    return [{name: keywords[name] for name in names if name in keywords} for names in known]


@dataclass(frozen=True)
class ProfileOptions:
    """The settings to measure, and the number of rounds.

    Each reducer runs at each ratio in `keeps` below 1, beside the run with all tokens; `uniform` and `random` always
    run. `repeat` rounds count, `warm_up` rounds before them do not. `seed` shuffles the order of the runs.
    """

    keeps: tuple[float, ...] = (1.0, 0.5, 0.2, 0.1, 0.05)
    reducers: tuple[str, ...] = (AUTO,)
    repeat: int = 3
    warm_up: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for keep in self.keeps:
            check_keep(keep)
        for name in self.reducers:
            check_reducer(name)
        if self.repeat < 1 or self.warm_up < 0:
            found = f"repeat is {self.repeat} and warm_up is {self.warm_up}."
            raise OptionError(found, "Measure at least once, after 0 or more rounds that do not count.")


def read_reuse(text: str) -> Reuse | Literal["auto"]:
    """A reuse threshold from `auto`, `off` or a number; OptionError otherwise."""
    text = text.strip()
    if text == AUTO:
        return AUTO
    if text == OFF:
        return None
    try:
        return check_reuse(float(text))
    except ValueError:
        raise OptionError(f"{text!r} is not a reuse threshold.", REUSE_HINT) from None


def check_reuse(threshold: Reuse) -> Reuse:
    """Return None (off) or a finite threshold of at least 0, else raise OptionError."""
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise OptionError(f"reuse is {threshold:g}.", REUSE_HINT)
    return threshold


def reuse_name(threshold: Reuse) -> str:
    """A reuse threshold as text: `off`, `0.1`."""
    return OFF if threshold is None else f"{threshold:g}"


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model.

    `quant`: auto loads a named model unquantized; for the model `auto` it is chosen together with the model.
    `device`: auto is CUDA if a device is found, else the CPU; `cuda:N` is one of several devices.
    `dtype`: of the weights that are not quantized. auto is bfloat16 on CUDA, float16 where bfloat16 is emulated
    (compute capability below 8); on a CPU bfloat16, or float32 for a small model.
    `sieve`: folder or hub id of a trained sieve, or the name of one the model has; None takes the model's own, if any,
    and `none` loads the model without it.
    `max_pixels`: of each frame or image; None takes the model's own limits.
    `cache`: folder where quantized weights are kept for the next load, up to half as large as the model; None for none.
    `reuse`: the encoders reuse the features of windows whose pixels differ from the last encoded ones by at most this
    mean absolute difference of normalised pixels (1 is about 68 of 255 levels), and encode silence once; None encodes
    every window; auto takes the model's own threshold, else None.
    `encoder_keep`: the cells that the vision encoder keeps inside; None keeps all; auto as of `reuse`. `keep`: the
    largest share of tokens that questions will keep, which an encoder keep such as 3x multiplies; None keeps all cells.
    """

    quant: Quant | Literal["auto"] = AUTO
    device: str = AUTO
    sieve: str | None = None
    max_pixels: int | None = None
    cache: Path | None = None
    reuse: Reuse | Literal["auto"] = AUTO
    dtype: str = AUTO
    encoder_keep: EncoderKeep | Literal["auto"] | None = AUTO
    keep: float | None = None

    def __post_init__(self) -> None:
        if not (self.encoder_keep is None or self.encoder_keep == AUTO or isinstance(self.encoder_keep, EncoderKeep)):
            raise OptionError(f"{self.encoder_keep!r} is no EncoderKeep.", "Give one, None or auto.")
        if self.keep is not None:
            check_keep(self.keep)
        if self.reuse is None or not isinstance(self.reuse, str):
            check_reuse(self.reuse)
        elif self.reuse != AUTO:
            raise OptionError(f"{self.reuse!r} is not a reuse threshold.", REUSE_HINT)
        if self.quant not in (AUTO, *QUANTS):
            raise OptionError(f"Unknown quantization {self.quant!r}.", f"Known: {', '.join((AUTO, *QUANTS))}.")
        if self.device == "mps":
            raise OptionError("Apple's MPS device is not supported.", "Use --device cpu.")
        if not DEVICE.fullmatch(self.device):
            raise OptionError(f"Unknown device {self.device!r}.", "Known: auto, cpu, cuda, cuda:N.")
        if self.dtype not in (AUTO, *DTYPES):
            raise OptionError(f"Unknown dtype {self.dtype!r}.", f"Known: {', '.join((AUTO, *DTYPES))}.")
        if self.max_pixels is not None and self.max_pixels < MIN_PIXELS:
            raise OptionError(f"max_pixels is {self.max_pixels}.", f"Give at least {MIN_PIXELS} (56 x 56).")

    def concrete(self) -> LoadOptions:
        """The same with the quantization of a model given by name: auto is none."""
        return replace(self, quant="none") if self.quant == AUTO else self
