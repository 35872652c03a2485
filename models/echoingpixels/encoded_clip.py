"""An encoded clip: the features of its video and audio, for any number of questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .backbones.base import Features
from .batching import Prompt
from .checkpoints.fingerprint import features_mark, file_mark
from .features.cache import CachedClip, FeatureCache, Slot, default_folder, feature_key
from .features.encode import encode
from .generation.answer import Answer, Chunk, joined
from .generation.prefix import Prefixes
from .inputs.prepare import Media
from .inputs.prompt import Message
from .inputs.token_stream import Selection, TokenStream
from .media.clip import Ending, Pieces, Source
from .options import AUTO, AskOptions, MediaOptions
from .report import StageTimes, Stopwatch, peak_memory, reset_peak

if TYPE_CHECKING:
    from .model import EchoingPixels

CACHED = "The clip's features were read from the cache; with --no-cache it is decoded and encoded again."
OnSelection = Callable[[TokenStream, Selection], None]
OnKept = Callable[[TokenStream], object]


@dataclass(frozen=True)
class EncodedClip:
    """The features of a clip's video and audio.

    `media`: the sizes that prompts are made of. `time_s`: seconds to load the model, and to decode, prepare and encode
    the clip. `peak_bytes`: peak memory while the clip was encoded. `slot`: where `store` writes the features.
    `prefixes`: what the decoder has read of the clip, for further questions.
    """

    model: EchoingPixels
    media: Media
    features: Features
    time_s: StageTimes
    peak_bytes: int | None
    ending: Ending
    cached: bool = False
    slot: Slot | None = None
    prefixes: Prefixes = field(default_factory=Prefixes)

    @property
    def source(self) -> Source:
        """Facts about the file."""
        return self.ending.source

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.ending.duration

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts about the clip that a reader of an answer needs."""
        return (*self.source.notes, *((CACHED,) if self.cached else ()))

    @property
    def absent(self) -> int:
        """Number of video tokens that the vision encoder dropped."""
        video = self.features.video
        return 0 if video is None else self.media.span.video_tokens - len(video)

    @property
    def encoder_flops(self) -> float:
        """Floating-point operations of the encoders."""
        return self.model.backbone.encoder_flops(self.media, self.features)

    @property
    def held_bytes(self) -> int:
        """Bytes of the features, and of what the decoder has read."""
        tensors: list[Any] = [*vars(self.features).values()]
        if self.prefixes.prefix is not None:
            tensors += vars(self.prefixes.prefix.stream).values()
            layers = getattr(self.prefixes.prefix.cache, "layers", ())
            tensors += [value for layer in layers for value in vars(layer).values()]
        return sum(x.nbytes for x in tensors if isinstance(x, Tensor))

    def prompt(self, question: str) -> Prompt:
        """A question about the clip as token ids and positions."""
        return Prompt.of(self.model, [Message("user", (self, question))])

    def stream(
        self, question: str, options: AskOptions | None = None, on_selection: OnSelection | None = None, **keywords: Any
    ) -> Iterator[Chunk]:
        """Answer a question piece by piece; the last chunk carries the answer. Options as in `ask`.

        `on_selection` gets the whole stream and the selection, untimed.
        """
        return self.model.stream([self.prompt(question)], options, on_selection, **keywords)

    def ask(
        self, question: str, options: AskOptions | None = None, on_selection: OnSelection | None = None, **keywords: Any
    ) -> Answer:
        """Answer a question. Keyword options are those of AskOptions and GenerateOptions.

        OptionError for an unknown option or an empty question, OutOfMemoryError where memory runs out.
        """
        (answer,) = joined(self.stream(question, options, on_selection, **keywords))
        return answer

    def compare(self, question: str, options: AskOptions | None = None, **keywords: Any) -> tuple[Answer, Answer]:
        """The reduced answer with its measured speedup, and the answer from all tokens.

        The reduced run is made twice, and the second one counts. Nothing is reused.
        """
        options = replace((options or AskOptions()).updated(keywords), reuse_prefix=False)
        self.ask(question, options)
        reduced = self.ask(question, options)
        full = self.ask(question, replace(options, reducer="full", keep=1.0))
        return replace(reduced, report=reduced.report.measured(full.report)), full

    def store(self) -> None:
        """Write the features to the cache, if there is one and they are not in it; `stream` does so after an answer."""
        if self.slot is not None and not self.cached:
            own = self.model.world_note(self.source)  # it belongs to the model, not to the file
            source = replace(self.source, notes=tuple(note for note in self.source.notes if note not in own))
            self.slot.put(CachedClip(self.media, self.features, source, self.duration))


def encode_pieces(
    model: EchoingPixels, pieces: Pieces, before: Mapping[str, float], slot: Slot | None = None
) -> EncodedClip:
    """Prepare and encode a clip as it is read. `before`: seconds by stage that were spent on it already."""
    device = model.backbone.device
    reset_peak(device)
    watch = Stopwatch(device, StageTimes(load=model.load_s, **before))
    encoded = encode(model.backbone, pieces, watch)
    with watch.stage("encode"):
        watch.wait()
    ending = model.with_notes(encoded.ending)
    return EncodedClip(
        model, encoded.media, encoded.features, watch.times(), peak_memory(device), ending, cached=False, slot=slot
    )


def from_cache(model: EchoingPixels, clip: CachedClip, before: Mapping[str, float]) -> EncodedClip:
    """A clip whose features are in the cache. `before`: seconds by stage to find them."""
    times = StageTimes(load=model.load_s, **before)
    ending = model.with_notes(Ending(clip.duration, clip.source))
    return EncodedClip(model, clip.media, clip.features, times, None, ending, cached=True)


def cache_slot(
    path: Path, encoders: str, options: MediaOptions, cache: FeatureCache | str | PathLike[str] | None
) -> Slot | None:
    """The place of a file's features in a cache or its folder; None without one, or for encoders without a mark."""
    if cache is None or not encoders or not path.is_file():
        return None
    if not isinstance(cache, FeatureCache):
        cache = _cache_in(default_folder() if cache == AUTO else Path(cache))
    return cache.slot(feature_key(features_mark(path, file_mark(path)), encoders, options))


@lru_cache
def _cache_in(folder: Path) -> FeatureCache:
    """One cache a folder: a new one measures the whole folder when it first writes."""
    return FeatureCache(folder)
