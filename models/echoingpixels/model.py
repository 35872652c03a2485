"""The model: encode a clip, prepare a prompt, embed, select, take, generate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .backbones.base import Backbone
from .backbones.sizes import stored_bytes
from .batching import Prompt, batches, prefix_rows
from .encoded_clip import EncodedClip, OnKept, OnSelection, cache_slot, encode_pieces, from_cache
from .errors import OptionError, guarded, guarded_stream
from .features.cache import FeatureCache, Slot
from .generation.answer import Answer, Chunk, Cost, generate, joined
from .generation.prefix import continued, remember, reuses
from .inputs.positions import overreach
from .inputs.prepare import Inputs, Media
from .inputs.prompt import prepare_prompt
from .inputs.token_stream import Selection, TokenStream, pad
from .media.clip import Clip, Ending, Pieces, Source
from .options import (
    AUTO,
    KEEP,
    AskOptions,
    GenerateOptions,
    MediaOptions,
    check_choice,
    check_question,
    reducer_of,
    split_keywords,
)
from .reducer_names import SIEVED
from .reducers.cs2 import Sieve, no_sieve
from .reducers.registry import reducer_named, shares_prefix
from .report import Stopwatch, reset_peak

if TYPE_CHECKING:
    from .media import Reader

REAL_MODEL = "For other clips use --model qwen2.5-omni-3b --quant nf4 on a GPU (`ep models` lists models)."
Advise = Callable[[Media | None, str, AskOptions], tuple[str, ...]]
"""Options that would fit into memory, for a clip (None: not encoded yet), a question and its options."""
Asked = Prompt | tuple[EncodedClip, str]


def no_advice(media: Media | None, question: str, options: AskOptions) -> tuple[str, ...]:
    """No advice, for a model that was not made by `load`."""
    return ()


class EchoingPixels:
    """A backbone with its sieve, if it has one.

    `load_s`: seconds to load it. `encoders`: the mark of its encoders in the feature cache; empty for a model that is
    not from a file, whose features are not cached. `advise`: called where memory runs out.
    """

    def __init__(
        self,
        backbone: Backbone,
        sieve: Sieve | None = None,
        quant: str = "none",
        load_s: float = 0.0,
        encoders: str = "",
        advise: Advise = no_advice,
    ) -> None:
        self.backbone = backbone
        self.sieve = sieve
        self.quant = quant
        self.load_s = load_s
        self.encoders = encoders
        self.advise = advise

    # From a file to an encoded clip.

    def frame_size(self, height: int, width: int, frames: int = 0, image: bool = False) -> tuple[int, int]:
        """The (height, width) in pixels at which the model encodes each of `frames` frames of that size."""
        return self.backbone.resolution.size(height, width, frames, image)

    def encode(
        self,
        media: str | PathLike[str] | Clip | Pieces,
        options: MediaOptions | None = None,
        *,
        cache: FeatureCache | str | PathLike[str] | None = AUTO,
        reader: Reader | None = None,
        **read: Any,
    ) -> EncodedClip:
        """Read and encode a clip once, for any number of questions.

        `media`: a file, a Clip, or a clip's pieces; memory holds one piece and the features. `options` and keywords
        (those of MediaOptions) apply to a file. `cache`: the folder of cached features of files, `auto` for the user's
        cache folder, None for none. `reader` reads a file's pieces (None: `stream_clip`).
        MediaError where the file gives no token, OutOfMemoryError, OptionError for an unknown keyword, or one for a
        clip that is already read.
        """
        (changed,) = split_keywords(read, MediaOptions)
        if not isinstance(media, str | PathLike):
            _check_unread({**({} if options is None else {"options": options}), **changed})
            pieces = media.pieces() if isinstance(media, Clip) else media
            return self.encode_pieces(pieces, {})
        path = Path(media)
        options = replace(options or MediaOptions(), **changed)
        watch = Stopwatch(self.backbone.device)
        with watch.stage("decode"):
            slot = cache_slot(path, self.encoders, options, cache)
            cached = None if slot is None else slot.get(str(path))
        if cached is not None:
            return from_cache(self, cached, watch.seconds)
        if reader is None:
            from .media import stream_clip

            reader = stream_clip
        return self.encode_pieces(reader(path, options, frame_size=self.frame_size), watch.seconds, slot)

    def encode_pieces(self, pieces: Pieces, before: dict[str, float], slot: Slot | None = None) -> EncodedClip:
        """Encode a clip as it is read; see `encoded_clip.encode_pieces`. OutOfMemoryError where memory runs out."""
        advise = partial(self.advise, None, "", AskOptions())
        encode = partial(encode_pieces, self, pieces, before, slot)
        return guarded(encode, "encoding the clip", self.backbone.device, advise)

    # From an encoded clip and a question to a selection.

    def prepare(self, media: Media, question: str) -> Inputs:
        """Token ids and positions of the prompt about one clip. OptionError for an empty question."""
        return prepare_prompt(media, check_question(question), self.backbone.tokenizer, self.backbone.layout)

    @torch.no_grad()
    def embed(self, prompt: Prompt) -> TokenStream:
        """The joint token stream (1, L, D) of a prompt and its clip's features."""
        return self.backbone.embed(prompt.inputs, prompt.prefix_row.features)

    @torch.no_grad()
    def select(self, stream: TokenStream, reducer: str = AUTO, keep: float = KEEP) -> Selection:
        """Choose tokens; OptionError for an unknown reducer or ratio, ModelError for cs2 without sieve weights."""
        self.check(reducer, keep)
        return reducer_named(self.reducer_of(reducer)).choose(self.backbone, self.sieve, stream, keep)

    def reducer_of(self, name: str) -> str:
        """The reducer's real name in place of auto."""
        return reducer_of(name, self.sieve is not None)

    def selection_flops(self, reducer: str, pool: int, text: int) -> float:
        """Floating-point operations to choose among `pool` audio and video tokens beside `text` tokens."""
        return reducer_named(reducer).flops(self.backbone.shape, self.sieve, pool, text)

    def check(self, reducer: str, keep: float = KEEP) -> None:
        """OptionError for an unknown reducer or ratio, ModelError for cs2 without a sieve."""
        check_choice(reducer, keep)
        if self.sieve is None and reducer in SIEVED:
            raise no_sieve(self.backbone.name)

    # From questions to answers.

    def ask(
        self,
        media: str | PathLike[str] | Clip | Pieces | EncodedClip,
        question: str,
        *,
        cache: FeatureCache | str | PathLike[str] | None = AUTO,
        **options: Any,
    ) -> Answer:
        """Answer one question about a file, a clip or an encoded clip.

        Keyword options are those of MediaOptions, AskOptions and GenerateOptions. `cache` and errors as of `encode`,
        errors also as of `answer`.
        """
        read, ask, generate = split_keywords(options, MediaOptions, AskOptions, GenerateOptions)
        if isinstance(media, EncodedClip):
            _check_unread(read)
            clip = media
        else:
            clip = self.encode(media, cache=cache, **read)
        return clip.ask(question, **ask, **generate)

    def answer(self, asked: Sequence[Asked], options: AskOptions | None = None, **keywords: Any) -> list[Answer]:
        """Answer questions about encoded clips in padded batches, in order; each answer is as if asked alone.

        `asked`: (clip, question) pairs, or prompts. Keyword options are those of AskOptions and GenerateOptions.
        ModelError for cs2 without sieve weights, OutOfMemoryError where memory runs out.
        """
        parts = batches(map(_prompt, asked))
        return [answer for part in parts for answer in joined(self.stream(part, options, **keywords))]

    def stream(
        self,
        asked: Sequence[Asked],
        options: AskOptions | None = None,
        on_selection: OnSelection | None = None,
        on_kept: OnKept = bool,
        **keywords: Any,
    ) -> Iterator[Chunk]:
        """Answer one batch of questions piece by piece; the last chunks carry the answers, in order.

        `on_selection` gets the whole stream (B, L) and the selection, `on_kept` the kept tokens. Else as `answer`.
        """
        options = (options or AskOptions()).updated(keywords).resolved(self.sieve is not None)
        prompts = list(map(_prompt, asked))
        if not prompts:
            return iter(())
        self.check(options.reducer, options.keep)
        advise = partial(self.advise, prompts[0].media, prompts[0].question, options)
        chunks = self._stored(prompts, self._chunks(prompts, options, on_selection, on_kept))
        return guarded_stream(chunks, "answering", self.backbone.device, advise)

    def _stored(self, prompts: Sequence[Prompt], chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        try:
            yield from chunks
        finally:
            for clip in {id(clip): clip for prompt in prompts for clip in prompt.clips}.values():
                clip.store()

    def _chunks(
        self, prompts: Sequence[Prompt], options: AskOptions, on_selection: OnSelection | None, on_kept: OnKept
    ) -> Iterator[Chunk]:
        watch, choice = Stopwatch(self.backbone.device), (options.reducer, options.keep)
        reset_peak(self.backbone.device)
        costs = [prompt.cost(options) for prompt in prompts]
        rows = prefix_rows(prompts) if shares_prefix(options) else []
        if on_selection is None and reuses(rows, choice):
            kept, spent = continued(self.backbone, rows, choice, self.select, watch)
            costs = [replace(cost, time_s=cost.time_s + earlier) for cost, earlier in zip(costs, spent, strict=True)]
            on_prefill = None
        else:
            with watch.stage("select"):
                stream = pad([self.embed(prompt) for prompt in prompts])
                selection = self.select(stream, options.reducer, options.keep)
                kept = stream.take(selection)
            if on_selection is not None:
                on_selection(stream, selection)
            del stream, selection  # a long stream is large
            on_prefill = partial(remember, self.backbone, rows, choice, kept, watch) if rows else None
        on_kept(kept)
        yield from generate(self.backbone, kept, options, watch, costs, self.weight_bytes(), on_prefill)

    def generate(self, stream: TokenStream, options: GenerateOptions | None = None, **keywords: Any) -> Answer:
        """Answer from a stream of one row, reduced or not; the report starts here. Evidence has the stream's own steps.

        Keyword options are those of GenerateOptions. OptionError for another one, or for several rows.
        """
        if len(stream.mask) != 1:
            raise OptionError(f"A stream of {len(stream.mask)} rows has no single answer.", "Use model.answer.")
        (changed,) = split_keywords(keywords, GenerateOptions)
        chosen = AskOptions(generate=replace(options or GenerateOptions(), **changed))
        cost = Cost(warnings=self.overreach(int(stream.next_position.max())))
        reset_peak(self.backbone.device)
        watch = Stopwatch(self.backbone.device)
        (answer,) = joined(generate(self.backbone, stream, chosen, watch, [cost], self.weight_bytes()))
        return answer

    # Facts about the model.

    def overreach(self, end: int) -> tuple[str, ...]:
        """A warning where a prompt of `end` positions exceeds the positions that the model was trained on."""
        on = self.backbone
        return overreach(end, on.max_positions, on.layout.positions_per_s)

    def world_note(self, source: Source) -> tuple[str, ...]:
        """A note if the clip is not of the only kind that the model was trained on, else ()."""
        world = self.backbone.world
        if world is None or (source.comment or "").startswith(world):
            return ()
        known = f"{self.backbone.name} was trained on {world} only, and this file's metadata does not name {world}"
        return (f"{known}: do not trust the answer. {REAL_MODEL}",)

    def with_notes(self, ending: Ending) -> Ending:
        """The same, with `world_note` among the notes of its source."""
        notes = dict.fromkeys((*ending.source.notes, *self.world_note(ending.source)))
        return replace(ending, source=replace(ending.source, notes=tuple(notes)))

    def notes(self, reducer: str) -> tuple[str, ...]:
        """A note where a reducer without the sieve runs on the decoder that the sieve has changed."""
        by = self.backbone.changed_by
        if not by or reducer in SIEVED:
            return ()
        return (f"The decoder has the rotary split or LoRA of the sieve in {by}: {reducer} is not the base model's.",)

    def weight_bytes(self) -> int:
        """Bytes of all parameters as stored, with the scales of quantized ones."""
        parameters = [*self.backbone.parameters(), *(self.sieve.parameters() if self.sieve else ())]
        return sum(map(stored_bytes, parameters))


def _check_unread(read: dict[str, Any]) -> None:
    """OptionError for read options of a clip that is already read."""
    if read:
        raise OptionError(f"{next(iter(read))} applies to a file, and this clip is already read.", "Give the file.")


def _prompt(asked: Asked) -> Prompt:
    if isinstance(asked, Prompt):
        return asked
    clip, question = asked
    return clip.prompt(question)
