"""From the body of a request to messages with clips by reference, and to the library's options."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from ..errors import EpError, OptionError
from ..inputs.prompt import Message
from ..options import AskOptions, MediaOptions
from .backend import Checked
from .bodies import AudioPart, ChatRequest, ImagePart, InputAudioPart, MediaPart, TextPart, VideoPart
from .media import Reference
from .refusals import Refused, of_error
from .settings import Settings


def messages_of(body: ChatRequest, settings: Settings) -> list[Message[Reference]]:
    """The conversation. Refused if it does not end with a question, or is too long."""
    messages: list[Message[Reference]] = [
        Message("system" if one.role == "developer" else one.role, tuple(map(_part, one.content)))
        for one in body.messages
    ]
    if messages[-1].role != "user":
        raise Refused(422, "The last message is not a user's.", param="messages")
    texts = [part for one in messages for part in one.parts if isinstance(part, str)]
    if not any(part.strip() for part in messages[-1].parts if isinstance(part, str)):
        raise Refused(422, "The last message has no text. Write the question.", param="messages")
    bounds = settings.bounds
    for number, most, what in (
        (sum(map(len, texts)), bounds.characters, "characters of text"),
        (sum(len(one.parts) for one in messages) - len(texts), bounds.parts, "clips"),
    ):
        if number > most:
            raise Refused(422, f"The messages have {number} {what}; the limit is {most}.", param="messages")
    return messages


def _part(part: TextPart | MediaPart) -> str | Reference:
    match part:
        case TextPart():
            return part.text
        case VideoPart():
            return Reference(part.video_url.url, part.uuid)
        case AudioPart():
            return Reference(part.audio_url.url, part.uuid)
        case ImagePart():
            return Reference(part.image_url.url, part.uuid)
        case InputAudioPart():
            return Reference(f"data:audio/{part.input_audio.format};base64,{part.input_audio.data}", part.uuid)


def media_options(body: ChatRequest, settings: Settings) -> MediaOptions:
    """How to read the clips of a request."""
    _limit("max_frames", body.max_frames, max(settings.bounds.frames, settings.read.max_frames))
    given = {
        "fps": body.fps,
        "max_frames": body.max_frames,
        "start": body.start,
        "end": body.end,
        "audio": body.use_audio,
    }
    try:
        return replace(settings.read, **_present(given))
    except OptionError as error:
        raise of_error(error) from None


def ask_options(body: ChatRequest, settings: Settings) -> AskOptions:
    """How to answer a request."""
    tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    _limit(name, tokens, max(settings.bounds.tokens, settings.ask.generate.max_new_tokens))
    stop = None if body.stop is None else tuple(body.stop)
    seed = secrets.randbits(31) if body.seed is None else body.seed  # another answer each time; greedy ones use none
    decode = {"max_new_tokens": tokens, "temperature": body.temperature, "stop": stop}
    try:
        generate = replace(settings.ask.generate, **_present(decode))
        if generate.temperature:
            generate = replace(generate, seed=seed)
        return replace(settings.ask, generate=generate, **_present({"keep": body.keep, "reducer": body.reducer}))
    except OptionError as error:
        raise of_error(error) from None


def check_options(model: Checked, options: AskOptions) -> None:
    """Refused where the model cannot answer with these options."""
    try:
        model.check(options.reducer, options.keep)
    except EpError as error:
        raise Refused(422, str(error), param="reducer") from None


def _limit(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise Refused(422, f"{name} is {value}; the limit is {most}.", param=name)


def _present(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
