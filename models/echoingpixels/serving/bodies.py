"""The body of a chat request: OpenAI's fields and this project's own, each checked. A field with null is absent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from ..options import is_unicode
from .refusals import Refused

SEED = 2**63 - 1
FIELDS = 64  # of an object, at most
PARTS = 1024  # of a message, at most: with a limit, a list has one error


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if len(given) > FIELDS:  # each unknown one would be an error of its own
            raise ValueError(f"has more than {FIELDS} fields")
        return {name: value for name, value in given.items() if value is not None}


class Url(Body):
    """The place of a clip: data:, a file-… id, file:// or https://."""

    url: str


class ImageUrl(Url):
    """The place of an image, encoded at the model's own resolution."""

    detail: Literal["auto"] | None = None


class InputAudio(Body):
    """Sound in base64."""

    data: str
    format: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]{1,32}$")]


Uuid = Annotated[str, Field(min_length=1, max_length=256)]


def _unicode(text: str) -> str:
    """ValueError for lone surrogates, which JSON can spell and no tokenizer accepts."""
    if not is_unicode(text):
        raise ValueError("is not valid text")
    return text


class TextPart(Body):
    """A piece of text."""

    type: Literal["text"]
    text: Annotated[str, AfterValidator(_unicode)]


class VideoPart(Body):
    """A video with its sound."""

    type: Literal["video_url"]
    video_url: Url
    uuid: Uuid | None = None


class AudioPart(Body):
    """A sound file."""

    type: Literal["audio_url"]
    audio_url: Url
    uuid: Uuid | None = None


class ImagePart(Body):
    """A still image."""

    type: Literal["image_url"]
    image_url: ImageUrl
    uuid: Uuid | None = None


class InputAudioPart(Body):
    """A sound in the request itself."""

    type: Literal["input_audio"]
    input_audio: InputAudio
    uuid: Uuid | None = None


MediaPart = VideoPart | AudioPart | ImagePart | InputAudioPart
Part = Annotated[TextPart | MediaPart, Field(discriminator="type")]


def _parts(content: Any) -> Any:
    """A string as a list of one part."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Limit = Field(max_length=PARTS)
Texts = Annotated[list[TextPart], Limit, BeforeValidator(_parts, json_schema_input_type=str | list[TextPart])]
Parts = Annotated[list[Part], Limit, BeforeValidator(_parts, json_schema_input_type=str | list[Part])]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=4), BeforeValidator(_listed, json_schema_input_type=Stop | list[Stop])]


class SystemMessage(Body):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Texts


class UserMessage(Body):
    """A question, or an earlier one: texts and clips in order."""

    role: Literal["user"]
    content: Parts


class AssistantMessage(Body):
    """An earlier answer."""

    role: Literal["assistant"]
    content: Texts


AnyMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Body):
    """`include_usage`: a last chunk has the usage."""

    include_usage: bool | None = None


class TextFormat(Body):
    """The only format of answers."""

    type: Literal["text"]


def _documented(schema: JsonDict) -> None:
    schema["examples"] = [
        {
            "model": "tiny",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video_url", "video_url": {"url": "file-…"}},
                        {"type": "text", "text": "Who rings the bell?"},
                    ],
                }
            ],
        }
    ]


class ChatRequest(Body):
    """A question with the messages before it.

    Fields that would change the answer of OpenAI's API and are not supported are accepted at their neutral value alone.
    """

    model_config = ConfigDict(json_schema_extra=_documented)

    model: str
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-SEED, le=SEED)] | None = None
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    reducer: Annotated[str, Field(max_length=64)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    max_frames: Annotated[int, Field(ge=1)] | None = None
    start: Annotated[float, Field(ge=0)] | None = None
    end: Annotated[float, Field(gt=0)] | None = None
    use_audio: bool | None = None
    kept: bool | None = None

    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


def refusal(errors: Sequence[Any]) -> Refused:
    """The refusal for the errors of a body that is not a ChatRequest: the first one, by the name of its field."""
    error = errors[0]
    where, kind, about = list(error["loc"])[1:], error["type"], error.get("ctx") or {}
    if kind == "json_invalid":
        return Refused(400, "The body is not JSON.", code="invalid_json")
    param = "".join(_named(where)).lstrip(".") or None
    if kind == "union_tag_invalid":
        field = str(about["discriminator"]).strip("'")
        message = f"{param}.{field} is {str(about['tag'])[:40]!r}. Known: {about['expected_tags']}."
        return Refused(422, message, param=f"{param}.{field}", code="unsupported_value")
    if kind == "extra_forbidden":
        return Refused(422, f"The field {param} is not supported.", param=param, code="unsupported_field")
    reason = str(error["msg"])
    return Refused(422, f"{param or 'The body'}: {reason[:1].lower()}{reason[1:]}.", param=param, code="invalid_value")


def _named(where: Sequence[str | int]) -> Iterator[str]:
    """The pieces of a field's name, such as messages[0].content[1].text, without the tags of unions: a message has its
    role as tag, and a part of a user's message its type."""
    for place, step in enumerate(where):
        tagged = place == 2 or (place == 5 and where[2] == "user")
        if isinstance(step, int):
            yield f"[{step}]"
        elif not (tagged and where[0] == "messages"):
            yield f".{str(step)[:80]}"
