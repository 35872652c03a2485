"""A conversation about clips: each prompt has all earlier questions and answers."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from .batching import Prompt
from .encoded_clip import EncodedClip, OnSelection
from .generation.answer import Answer, Chunk, joined
from .inputs.prompt import SYSTEM, Message
from .options import AskOptions

if TYPE_CHECKING:
    from .model import EchoingPixels


class Conversation:
    """Questions about encoded clips, one after another.

    `messages`: questions and answers so far, after the system prompt. A clip is part of the next question's message.
    """

    def __init__(self, model: EchoingPixels, *clips: EncodedClip, system: str = SYSTEM) -> None:
        self.model = model
        self.messages: list[Message[EncodedClip]] = [Message("system", (system,))]
        self._new = list(clips)

    @property
    def clips(self) -> tuple[EncodedClip, ...]:
        """All clips, in order."""
        earlier = [part for message in self.messages for part in message.parts if not isinstance(part, str)]
        return (*earlier, *self._new)

    def add(self, clip: EncodedClip) -> None:
        """Show another clip with the next question."""
        self._new.append(clip)

    def clear(self) -> None:
        """Forget questions and answers, but no clip."""
        self._new, self.messages = list(self.clips), self.messages[:1]

    def replace(self, old: EncodedClip, new: EncodedClip) -> None:
        """Put one clip in the place of another, and forget questions and answers."""
        self.clear()
        self._new = [new if clip is old else clip for clip in self._new]

    def stream(
        self, question: str, options: AskOptions | None = None, on_selection: OnSelection | None = None, **keywords: Any
    ) -> Generator[Chunk, None, None]:
        """Answer piece by piece; the last chunk carries the answer. Options and errors as of `EncodedClip.ask`.

        An answer that is not read to its end is kept as far as it was read.
        """
        asked: Message[EncodedClip] = Message("user", (*self._new, question))
        prompt, text = Prompt.of(self.model, [*self.messages, asked]), ""
        try:
            for chunk in self.model.stream([prompt], options, on_selection, **keywords):
                text += chunk.text
                yield chunk
        finally:
            if text:
                self.messages += [asked, Message("assistant", (text,))]
                self._new = []

    def ask(self, question: str, options: AskOptions | None = None, **keywords: Any) -> Answer:
        """Answer a question; options and errors as of `EncodedClip.ask`."""
        (answer,) = joined(self.stream(question, options, **keywords))
        return answer
