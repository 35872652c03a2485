"""Questions about any number of clips, grouped into padded batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from .generation.answer import Answer, Cost
from .generation.evidence import Timing
from .generation.prefix import PrefixRow
from .inputs.prepare import Inputs, Media
from .inputs.prompt import Message, prepare_messages
from .options import AskOptions, check_question
from .report import StageTimes, Stopwatch, TokenCounts

if TYPE_CHECKING:
    from .encoded_clip import EncodedClip
    from .model import EchoingPixels

TOKENS_AT_ONCE = 16_384  # in one padded batch; a longer prompt is answered alone

E = TypeVar("E", bound=Exception)


class Measured(Protocol):
    """Anything with a prompt length."""

    @property
    def tokens(self) -> int: ...


M = TypeVar("M", bound=Measured)


@dataclass(frozen=True)
class Prompt:
    """A question about encoded clips, after earlier messages, as token ids and positions.

    `time_s`: seconds to prepare it.
    """

    model: EchoingPixels
    clips: tuple[EncodedClip, ...]
    question: str
    inputs: Inputs
    time_s: StageTimes

    @classmethod
    def of(cls, model: EchoingPixels, messages: Sequence[Message[EncodedClip]]) -> Prompt:
        """The prompt for the answer to a conversation. OptionError where its last message has no text."""
        watch, on = Stopwatch(model.backbone.device), model.backbone
        question = check_question("".join(part for part in messages[-1].parts if isinstance(part, str)))
        with watch.stage("prepare"):
            clips = tuple(part for message in messages for part in message.parts if not isinstance(part, str))
            sizes = [
                Message(one.role, tuple(part if isinstance(part, str) else part.media for part in one.parts))
                for one in messages
            ]
            inputs = prepare_messages(sizes, on.tokenizer, on.layout)
        return cls(model, clips, question, inputs, watch.times())

    @property
    def clip(self) -> EncodedClip:
        """The only clip."""
        (clip,) = self.clips
        return clip

    @property
    def media(self) -> Media | None:
        """The first clip's, if there is one."""
        return self.clips[0].media if self.clips else None

    @property
    def tokens(self) -> int:
        """Length before selection."""
        return self.inputs.kind.shape[1]

    @property
    def prefix_row(self) -> PrefixRow:
        """The same for the decoder."""
        clips = self.clips
        return PrefixRow(self.inputs, tuple(clip.features for clip in clips), tuple(clip.prefixes for clip in clips))

    def cost(self, options: AskOptions) -> Cost:
        """The cost before the first token, and the warnings and notes that belong to the answer."""
        clips, model = self.clips, self.model
        text, absent = self.inputs.counts.text, sum(clip.absent for clip in clips)
        left = self.tokens - text - absent
        notes = () if not absent or options.keep * (left + absent) <= left else (_few(left, left + absent),)
        spent = sum((replace(clip.time_s, load=None) for clip in clips), StageTimes(load=model.load_s))
        resolution = model.backbone.resolution
        warnings = [w for clip in clips for w in (*clip.source.warnings, *resolution.warnings(clip.media.span))]
        return Cost(
            time_s=spent + self.time_s,
            encoder_flops=sum(clip.encoder_flops for clip in clips),
            selection_flops=model.selection_flops(options.reducer, left, text),
            peak_bytes=max(filter(None, (clip.peak_bytes for clip in clips)), default=None),
            encoded=sum((clip.features.encoded(clip.media.span.image) for clip in clips), TokenCounts()),
            timing=Timing.of(clips[0].media.span, clips[0].duration) if len(clips) == 1 else None,
            warnings=(*dict.fromkeys(warnings), *model.overreach(int(self.inputs.positions.max()) + 1)),
            notes=(*dict.fromkeys(n for clip in clips for n in clip.notes), *model.notes(options.reducer), *notes),
        )


def _few(left: int, tokens: int) -> str:
    """The note where a keep ratio asks for more tokens than the vision encoder has kept."""
    return (
        f"The encoders kept {left:,} of {tokens:,} audio and video tokens (--encoder-keep): --keep keeps all of these."
    )


def prefix_rows(prompts: Sequence[Prompt]) -> list[PrefixRow]:
    """The prompts for the decoder; none where one of them has no clip."""
    return [prompt.prefix_row for prompt in prompts] if all(prompt.clips for prompt in prompts) else []


def batches(prompts: Iterable[M | None]) -> Iterator[list[M]]:
    """Prompts in order, in batches of at most TOKENS_AT_ONCE tokens when padded; of any number of clips.

    A None means that no more prompts are ready now: the current batch does not wait for them.
    """
    part: list[M] = []
    longest = 0
    for one in prompts:
        longest = max(longest, one.tokens if one else 0)
        if part and (one is None or longest * (len(part) + 1) > TOKENS_AT_ONCE):
            yield part
            part, longest = [], one.tokens if one else 0
        if one is not None:
            part.append(one)
    if part:
        yield part


def answer_each(
    model: EchoingPixels, prompts: Sequence[Prompt], options: AskOptions, failures: type[E]
) -> list[Answer | E]:
    """The answers to one batch, in order. If the batch fails with one of `failures`, each question is tried alone."""
    try:
        answers: list[Answer | E] = [*model.answer(prompts, options)]
    except failures as error:
        failed = error.with_traceback(None)  # the traceback holds the tensors of the failed batch
        answers = []
    if answers:
        return answers
    if len(prompts) == 1:
        return [failed]
    return [answer for one in prompts for answer in answer_each(model, [one], options, failures)]
