"""From a clip and a question to an answer: prepare, embed, select, take, generate.

Knows nothing about files or weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike

import torch

from .backbones.base import Backbone, Features
from .backbones.flops import llm_flops, sieve_flops
from .backbones.quantized import stored_bytes
from .encoded_clip import EncodedClip
from .errors import MediaError, OptionError
from .features.coarse_to_fine import glance_at
from .features.encode import encode
from .generation.answer import Answer, Chunk, Spent, folded
from .generation.decode import Text, stream_tokens
from .inputs.positions import overreach
from .inputs.prepare import Inputs, Media, prepare_media, prepare_prompt
from .inputs.stream import Selection, Stream, budget, top_k
from .media.clip import Clip, Ending, Pieces, Source
from .memory_errors import guarded
from .options import AUTO, KEEP, SIEVED, AskOptions, Auto, GenerateOptions, Keep, check_choice, reducer_of
from .reducers.adaptive import features
from .reducers.attention import ATTENDED, attended_flops
from .reducers.basic import REDUCERS
from .reducers.chunked_scoring import passes
from .reducers.cs2 import Sieve, no_sieve, no_table
from .reducers.quotas import SHARES
from .report import Report, Stopwatch, Tokens, decoding_rate, peak_memory, reset_peak

REAL_MODEL = "For other clips use --model qwen2.5-omni-3b --quant nf4 on a GPU (`ep models` lists models)."
Advise = Callable[[Media | None, str, AskOptions], tuple[str, ...]]
"""Options that would fit into memory, for a clip (None: not encoded yet), a question and how it was asked."""


def no_advice(media: Media | None, question: str, options: AskOptions) -> tuple[str, ...]:
    """Of a model that was put together by hand."""
    return ()


class EchoingPixels:
    """A backbone with its sieve, if it has one. `advise`: asked where memory ran out."""

    def __init__(
        self, backbone: Backbone, sieve: Sieve | None = None, quant: str = "none", load_s: float = 0.0
    ) -> None:
        self.backbone = backbone
        self.sieve = sieve
        self.quant = quant
        self.load_s = load_s
        self.advise: Advise = no_advice

    def frame_size(self, height: int, width: int, frames: int = 0, image: bool = False) -> tuple[int, int]:
        """The (height, width) at which the model sees each of that many frames; for `read_clip(frame_size=…)`."""
        return self.backbone.resolution.size(height, width, frames, image)

    def prepare(self, clip: Clip | Media, question: str) -> Inputs:
        """Patches, log-mel, token ids and positions of one prompt; a Media is shared among questions."""
        if isinstance(clip, Clip):
            clip = prepare_media(clip, self.backbone.resolution)
        return prepare_prompt(clip, question, self.backbone.tokenizer, self.backbone.layout)

    @torch.no_grad()
    def embed(self, inputs: Inputs, features: tuple[Features, ...] | None = None) -> Stream:
        """The joint token stream (1, L); runs the towers unless their features are given."""
        if features is None:
            features = tuple(self.backbone.encode(media) for media in inputs.media)
        stream = self.backbone.embed(inputs, features)
        if all(one.there is None for one in features):
            return stream
        keep, there = stream.mask.clone(), []
        for one in features:
            if one.video is not None:
                there.append(torch.ones(len(one.video), dtype=torch.bool) if one.there is None else one.there)
        keep[stream.pictures] = torch.cat(there).to(keep.device)
        return stream.take(Selection(keep))

    @torch.no_grad()
    def select(self, stream: Stream, reducer: str = AUTO, keep: Keep = KEEP) -> Selection:
        """Choose tokens; OptionError for an unknown reducer or ratio, ModelError for cs2 without sieve weights."""
        self.check(reducer, keep)
        reducer = reducer_of(reducer, self.sieve is not None)
        if isinstance(keep, Auto):
            return self._enough(stream, keep)
        if reducer in REDUCERS:
            return REDUCERS[reducer](stream, keep)
        if reducer in ATTENDED:
            return ATTENDED[reducer](self.backbone, stream, keep)
        assert self.sieve is not None
        selection: Selection = self.sieve(stream, keep)
        if reducer == "cs2" or selection.scores is None:
            return selection
        return replace(selection, keep=SHARES[reducer](stream, selection.scores, keep))

    def _enough(self, stream: Stream, keep: Auto) -> Selection:
        """As many of the best tokens of one pool as each row takes."""
        assert self.sieve is not None and self.sieve.options.auto is not None
        selection: Selection = self.sieve(stream, KEEP)
        if selection.scores is None:
            return selection
        enough = self.sieve.options.auto
        known = features(stream, self.sieve.shares(selection.scores, stream.pool))
        k = budget(stream.pool, enough.ratios(known, enough.price(keep)))
        chosen = top_k(selection.scores, stream.pool, k)
        return replace(selection, keep=chosen | (stream.mask & ~stream.pool))

    def choice_flops(self, reducer: str, pool: int, text: int) -> float:
        """Floating-point operations of choosing among the audio and video tokens of a prompt with so much text."""
        shape, rated = self.backbone.shape, passes(pool, text)
        if reducer in SIEVED and self.sieve is not None:
            layers = self.sieve.options.layers
            return sum(sieve_flops(shape, tokens, layers) for tokens in rated)
        return sum(attended_flops(shape, tokens) for tokens in rated) if reducer in ATTENDED else 0.0

    def check(self, reducer: str, keep: Keep = KEEP) -> None:
        """OptionError for an unknown reducer or ratio, ModelError for cs2 without a sieve or auto uncalibrated."""
        check_choice(reducer, keep)
        if reducer in SIEVED and self.sieve is None:
            raise no_sieve(self.backbone.name)
        if isinstance(keep, Auto):
            if self.sieve is None:
                raise no_sieve(self.backbone.name)
            if self.sieve.options.auto is None:
                raise no_table(self.backbone.name)

    def generate(self, stream: Stream, options: GenerateOptions | None = None) -> Answer:
        """Answer from a stream of one row, reduced or not; the report counts from here on. OptionError for more."""
        reset_peak(self.backbone.device)
        return folded(self.chunks(stream, options or GenerateOptions(), Stopwatch(self.backbone.device), Spent()))

    def ask(self, clip: Clip | Pieces, question: str, **options: object) -> Answer:
        """Answer one question about a clip; options are those of AskOptions."""
        return self.ask_all(clip, [question], **options)[0]

    def ask_all(self, clip: Clip | Pieces, questions: Sequence[str], **options: object) -> list[Answer]:
        """Answer several questions about a clip, which is prepared and encoded once."""
        looked = self.look(clip)
        return [folded(looked.stream(question, AskOptions(**options))) for question in questions]  # type: ignore[arg-type]

    def look(self, clip: Clip | Pieces, decode_s: float = 0.0) -> EncodedClip:
        """Prepare and encode a clip once, for any number of questions; `decode_s` is what reading it took so far.

        Of a clip that comes in pieces, memory holds one of them and the features; for a glance, all its frames.
        MediaError for a file's name, OutOfMemoryError where memory runs out.
        """
        if isinstance(clip, str | PathLike):
            raise MediaError(f"{clip} is a file's name, where a clip is needed.", "Read it first: read_clip(path).")
        advise = partial(self.advise, None, "", AskOptions())
        return guarded(partial(self._look, clip, decode_s), "encoding the clip", self.backbone.device, advise)

    def _look(self, clip: Clip | Pieces, decode_s: float) -> EncodedClip:
        reset_peak(self.backbone.device)
        watch = Stopwatch(self.backbone.device, {"load": self.load_s, "decode": decode_s})
        pieces = clip.pieces() if isinstance(clip, Clip) else clip
        if self.backbone.how.how == "glance":
            seen, glance = glance_at(self.backbone, pieces, watch)
        else:
            seen, glance = encode(self.backbone, pieces, watch), None
        with watch.stage("encode"):
            watch.wait()
        ending, peak = self.with_notes(seen.ending), peak_memory(self.backbone.device)
        return EncodedClip(self, seen.media, seen.features, watch, peak, ending, glance)

    def chunks(self, stream: Stream, options: GenerateOptions, watch: Stopwatch, spent: Spent) -> Iterator[Chunk]:
        """Generate from a stream of one row; the last chunk carries the answer and its report."""
        if len(stream.mask) != 1:
            raise OptionError(f"A stream of {len(stream.mask)} rows has no single answer.", "Use padded.answers.")
        text = Text(self.backbone)
        for token in stream_tokens(self.backbone, stream, options, watch):
            piece = text.push(int(token[0]))
            if piece:
                yield Chunk(piece)
        after = stream.counts()
        before = stream.before or after
        said, shape = len(text.ids), self.backbone.shape
        whole, kept = sum(before.values()), sum(after.values())
        full = spent.tower_flops + llm_flops(shape, whole, said)
        reduced = spent.tower_flops + spent.choice_flops + llm_flops(shape, kept, said)
        peaks = (spent.peak_bytes, peak_memory(self.backbone.device))
        report = Report(
            tokens=Tokens.of(before, after),
            time_s=watch.summary(),
            memory_bytes={"weights": self.weight_bytes(), "peak": max(filter(None, peaks), default=None)},
            flops={"full": full, "reduced": reduced},
            speedup={"estimated": full / reduced, "measured": None},
            encoded={kind: n for kind, n in before.items() if kind != "text"} | spent.anew,
            tokens_per_s=decoding_rate(said, watch.seconds.get("generate")),
            steps=watch.times["generate"],
        )
        warnings = (*spent.warnings, *self.overreach(int(stream.next_position.max())))
        answer = Answer(text.text, tuple(text.ids), text.reason, report, stream.moments(), warnings)
        yield Chunk("", answer)

    def overreach(self, end: int) -> tuple[str, ...]:
        """A warning where a prompt of `end` positions goes on beyond those that the model was made for."""
        on = self.backbone
        return overreach(end, on.max_positions, on.layout.positions_per_s)

    def world_note(self, source: Source) -> tuple[str, ...]:
        """A note if the clip is not of the only kind that the model was trained on, else ()."""
        world = self.backbone.world
        if world is None or (source.comment or "").startswith(world):
            return ()
        known = f"{self.backbone.name} only knows {world}, and by its metadata this file is not one of them"
        return (f"{known}: do not trust the answer. {REAL_MODEL}",)

    def with_notes(self, ending: Ending) -> Ending:
        """The same, with `world_note` among the notes of its source."""
        notes = dict.fromkeys((*ending.source.notes, *self.world_note(ending.source)))
        return replace(ending, source=replace(ending.source, notes=tuple(notes)))

    def notes(self, reducer: str) -> tuple[str, ...]:
        """A note where a reducer without the sieve still runs on the decoder that the sieve has changed."""
        by = self.backbone.changed_by
        if not by or reducer in SIEVED:
            return ()
        return (f"The decoder has the rotary split or LoRA of the sieve in {by}: {reducer} is not the base model's.",)

    def weight_bytes(self) -> int:
        """Bytes of all parameters as stored, with the scales of quantized ones."""
        parameters = [*self.backbone.parameters(), *(self.sieve.parameters() if self.sieve else ())]
        return sum(map(stored_bytes, parameters))
