"""Questions about any number of clips, grouped into padded batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from .generation.answer import Answer, Cost
from .generation.evidence import Timing
from .generation.prefix import Row
from .inputs.positions import TEXT
from .inputs.prepare import Inputs
from .options import AskOptions
from .report import StageTimes

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
    """A question about an encoded clip, as token ids and positions. `time_s`: seconds to prepare it."""

    clip: EncodedClip
    question: str
    inputs: Inputs
    time_s: StageTimes

    @property
    def tokens(self) -> int:
        """Length before selection."""
        return self.inputs.kind.shape[1]

    @property
    def row(self) -> Row:
        """The same for the decoder."""
        return Row(self.inputs, self.clip.features, self.clip.prefixes)

    def cost(self, options: AskOptions) -> Cost:
        """The cost before the first token, and the warnings and notes that belong to the answer."""
        clip, model = self.clip, self.clip.model
        text = int((self.inputs.kind == TEXT).sum())
        return Cost(
            time_s=clip.time_s + self.time_s,
            encoder_flops=clip.encoder_flops,
            selection_flops=model.selection_flops(options.reducer, self.tokens - text, text),
            peak_bytes=clip.peak_bytes,
            encoded=clip.features.encoded(clip.media.span.image),
            timing=Timing.of(clip.media.span, clip.duration),
            warnings=(
                *clip.source.warnings,
                *model.backbone.resolution.warnings(clip.media.span),
                *model.overreach(int(self.inputs.positions.max()) + 1),
            ),
            notes=(*clip.notes, *model.notes(options.reducer)),
        )


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
