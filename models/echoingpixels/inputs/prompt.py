"""Messages about clips to the token ids and positions of a prompt, in the chat template of Qwen2.5-Omni.

Text of users, of answers and of the system prompt never becomes an added token, special or not: see `plain_ids`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch

from .positions import Layout, Span, place
from .prepare import Inputs, Media, as_inputs

SYSTEM = "You are a helpful assistant."
Role = Literal["system", "user", "assistant"]


class Tokenizer(Protocol):
    """The methods needed of a tokenizer."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def get_added_vocab(self) -> dict[str, int]: ...


M = TypeVar("M")


@dataclass(frozen=True)
class Message(Generic[M]):
    """One message of a conversation: texts and media in the order given."""

    role: Role
    parts: tuple[str | M, ...]


def prepare_messages(
    messages: Sequence[Message[Media]], tokenizer: Tokenizer, layout: Layout, answer: str | None = None
) -> Inputs:
    """The prompt for the answer to a conversation; the question is the text of its last message.

    Without a system message at its start it begins with SYSTEM. `answer` follows and is labelled for training.
    """
    if not messages or messages[0].role != "system":
        messages = [Message("system", (SYSTEM,)), *messages]
    pieces: list[list[int] | Span] = []
    asked: list[bool] = []
    for number, message in enumerate(messages, 1):
        for piece, own in _pieces(message, tokenizer):
            pieces.append(piece)
            asked += [own and number == len(messages)] * (piece.length if isinstance(piece, Span) else len(piece))
    begin, reply = _reply(tokenizer, answer)
    end = [*begin, *reply]
    placed = place([*pieces, end], layout)
    labels = torch.cat([torch.full((placed.ids.numel() - len(reply),), -100), torch.tensor(reply, dtype=torch.long)])
    question = torch.tensor([*asked, *[False] * len(end)])
    media = tuple(part for message in messages for part in message.parts if isinstance(part, Media))
    return as_inputs(placed, media, None if answer is None else labels, question)


def _pieces(message: Message[Media], tokenizer: Tokenizer) -> Iterator[tuple[list[int] | Span, bool]]:
    """The token ids and media of a message, and whether they are its own text."""
    text = f"{message.role}\n"
    head = len(plain_ids(tokenizer, text)) if message.role == "user" else 0  # tokens of the role
    yield _marked(tokenizer, "<|im_start|>"), False
    for part in (*message.parts, None):
        if isinstance(part, str):
            text += part
            continue
        ids = plain_ids(tokenizer, text)
        yield ids[:head], False
        yield ids[head:], True
        text, head = "", 0
        if part is not None:
            yield part.span, False
    yield _marked(tokenizer, "<|im_end|>\n"), False


def prepare_prompt(
    media: Media, question: str, tokenizer: Tokenizer, layout: Layout, system: str = SYSTEM, answer: str | None = None
) -> Inputs:
    """The prompt of one question about one clip; with `answer`, the answer follows and is labelled for training."""
    said: list[Message[Media]] = [Message("system", (system,)), Message("user", (media, question))]
    return prepare_messages(said, tokenizer, layout, answer)


def _marked(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of the template's own text, whose added tokens count."""
    return tokenizer.encode(text, add_special_tokens=False)


def chat_ids(
    tokenizer: Tokenizer, question: str, answer: str | None = None, system: str = SYSTEM
) -> tuple[list[int], list[int], list[int]]:
    """Token ids before the clip, after it up to the answer, and of the answer with its end mark."""
    said: list[Message[Media]] = [Message("system", (system,)), Message("user", (Media(Span()), question))]
    pieces = [piece for message in said for piece, _ in _pieces(message, tokenizer)]
    before: list[int] = []
    after: list[int] = []
    clip = next(i for i, piece in enumerate(pieces) if isinstance(piece, Span))
    for i, piece in enumerate(pieces):
        if not isinstance(piece, Span):
            (before if i < clip else after).extend(piece)
    begin, reply = _reply(tokenizer, answer)
    return before, after + begin, reply


def _reply(tokenizer: Tokenizer, answer: str | None) -> tuple[list[int], list[int]]:
    """Token ids that begin an answer, and those of the answer with its end mark, if it is given."""
    ids = [] if answer is None else [*plain_ids(tokenizer, answer), *_marked(tokenizer, "<|im_end|>")]
    return _marked(tokenizer, "<|im_start|>assistant\n"), ids


def plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of text in which the added tokens (`<|im_end|>`, `<tool_call>`, …) are ordinary characters.

    Text that spells an added token is cut after that token's first character; other text has its usual ids.
    """
    added = "|".join(map(re.escape, tokenizer.get_added_vocab()))
    cuts = [found.start() + 1 for found in re.finditer(f"(?={added})", text)] if added else []
    pieces = [text[first:last] for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]


def question_length(tokenizer: Tokenizer, after: list[int]) -> int:
    """Number of tokens of the question itself at the start of `after` from `chat_ids`; the template follows them."""
    return len(after) - len(chat_ids(tokenizer, "")[1])
