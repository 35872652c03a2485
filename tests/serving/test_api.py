"""The API as OpenAI's own client uses it: answers, streams, uploads, turns and errors."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from echoingpixels.conversation import Conversation
from echoingpixels.model import EchoingPixels
from echoingpixels.serving.addresses import Pattern
from tests.support import tinymodel
from tests.support.served import ASK, Live, asked, served, video

QUESTION = "Who rings the bell?"


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def model() -> EchoingPixels:
    return tinymodel.model()


def messages(*parts: Any) -> Any:
    return asked(*parts)["messages"]


def test_an_answer_is_that_of_the_library_with_its_tokens_and_evidence(
    client: openai.OpenAI, model: EchoingPixels, shorts: list[Path]
) -> None:
    answer = client.chat.completions.create(model="random", messages=messages(video(shorts[2]), QUESTION))
    own = model.ask(shorts[2], QUESTION, **_keywords())
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (
        own.text,
        "assistant",
        own.finish_reason,
    )
    tokens, usage = own.report.tokens, answer.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert usage.prompt_tokens == tokens.after.total < tokens.before.total
    assert usage.completion_tokens == len(own.token_ids)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    details = vars(usage.prompt_tokens_details) | (usage.prompt_tokens_details.model_extra or {})
    assert details["video_tokens"] == {"before": tokens.video.before, "after": tokens.video.after}
    assert details["audio_tokens"] == {"before": tokens.audio.before, "after": tokens.audio.after}
    assert tokens.audio.before > 0
    facts = (answer.model_extra or {})["ep"]
    assert {name: facts[name] for name in ("evidence", "no_evidence")} == own.evidence.as_dict()
    assert facts["speedup"]["estimated"] == pytest.approx(own.report.speedup.estimated)
    assert facts["time_s"]["prefill"] > 0


def _keywords(**more: Any) -> dict[str, Any]:
    return {"reducer": ASK.reducer, "keep": ASK.keep, "max_new_tokens": ASK.generate.max_new_tokens, **more}


def test_a_stream_has_the_same_text_and_the_usage_at_its_end(client: openai.OpenAI, shorts: list[Path]) -> None:
    body = {"model": "random", "messages": messages(video(shorts[1]), QUESTION)}
    whole = client.chat.completions.create(**body)
    chunks = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([piece for piece in text if piece]) > 1
    assert "".join(text) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert not chunks[-1].choices and chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert (chunks[-2].model_extra or {})["ep"]["time_s"]


def test_a_stream_ends_with_done_and_has_no_usage_unless_asked(live: Live, shorts: list[Path]) -> None:
    done = live.ask(video(shorts[1]), QUESTION, stream=True)
    events = [line.removeprefix("data: ") for line in done.text.splitlines() if line]
    assert done.headers["content-type"].startswith("text/event-stream")
    assert events[-1] == "[DONE]" and '"usage"' not in done.text


def test_a_second_question_reads_the_clip_from_memory(live: Live, shorts: list[Path]) -> None:
    first, second = (live.ask(video(shorts[3]), text, fps=1.5).json() for text in (QUESTION, "When?"))
    assert [one["usage"]["prompt_tokens_details"]["cached"] for one in (first, second)] == [False, True]
    assert first["ep"]["time_s"]["encode"] > 0 and second["ep"]["time_s"]["encode"] is None


def test_uploads_are_asked_about_by_id_and_deleted(client: openai.OpenAI, live: Live, shorts: list[Path]) -> None:
    upload = client.files.create(file=shorts[0], purpose="user_data")
    assert upload.id.startswith("file-") and upload.bytes == shorts[0].stat().st_size
    assert upload.filename == upload.id and upload.expires_at is not None and upload.expires_at > upload.created_at
    assert client.files.create(file=("../../etc/passwd", shorts[0].read_bytes()), purpose="vision").id == upload.id
    assert client.files.retrieve(upload.id).id == upload.id
    told = live.ask(video(upload.id), QUESTION).json()["choices"]
    assert told == live.ask(video(shorts[0]), QUESTION).json()["choices"]
    assert client.files.delete(upload.id).deleted
    for call in (client.files.retrieve, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(upload.id)
    gone = live.ask(video(upload.id), QUESTION)
    assert (gone.status_code, gone.json()["error"]["type"]) == (404, "invalid_request_error")


def test_a_clip_in_the_request_itself_gives_the_same_answer(live: Live, shorts: list[Path]) -> None:
    content = base64.b64encode(shorts[0].read_bytes()).decode()
    inline = live.ask(video(f"data:video/mp4;base64,{content}"), QUESTION).json()
    assert inline["choices"] == live.ask(video(shorts[0]), QUESTION).json()["choices"]
    sound = {"type": "input_audio", "input_audio": {"data": content, "format": "mp4"}}
    assert live.ask(sound, QUESTION).json()["choices"] == inline["choices"]


def test_turns_and_clips_are_those_of_a_conversation(live: Live, model: EchoingPixels, shorts: list[Path]) -> None:
    first, second = (model.encode(path) for path in shorts[:2])
    talk = Conversation(model, first, system="Answer in one word.")
    earlier = talk.ask(QUESTION, **_keywords()).text
    talk.add(second)
    own = talk.ask("And here?", **_keywords()).text
    turns = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": [video(shorts[0]), {"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": earlier},
        {"role": "user", "content": [video(shorts[1]), {"type": "text", "text": "And here?"}]},
    ]
    got = live.post("/v1/chat/completions", json={"model": "random", "messages": turns}).json()
    assert got["choices"][0]["message"]["content"] == own
    assert "several clips" in got["ep"]["no_evidence"]


def test_text_alone_is_answered(live: Live) -> None:
    done = live.ask("Say something.").json()
    assert done["choices"][0]["message"]["content"]
    assert done["usage"]["prompt_tokens_details"]["video_tokens"] == {"before": 0, "after": 0}


def test_options_of_a_request_are_those_of_the_library(live: Live, model: EchoingPixels, shorts: list[Path]) -> None:
    fields = {"keep": 0.6, "reducer": "uniform", "fps": 4.0, "max_frames": 6, "start": 0.5, "end": 1.5}
    own = model.ask(shorts[4], QUESTION, max_new_tokens=5, audio=False, **fields)
    got = live.ask(video(shorts[4]), QUESTION, max_tokens=5, use_audio=False, **fields).json()
    assert got["choices"][0]["message"]["content"] == own.text
    details = got["usage"]["prompt_tokens_details"]
    assert details["video_tokens"]["before"] == own.report.tokens.video.before > 0
    assert details["audio_tokens"] == {"before": 0, "after": 0}
    assert (got["ep"]["keep"], got["ep"]["reducer"]) == (0.6, "uniform")


def test_a_drawn_answer_depends_on_the_seed_alone(live: Live, shorts: list[Path]) -> None:
    def drawn(seed: int) -> str:
        body = live.ask(video(shorts[0]), QUESTION, temperature=2.0, seed=seed).json()
        return str(body["choices"][0]["message"]["content"])

    alone = drawn(3)
    assert drawn(4) != alone
    both: list[str] = []
    threads = [threading.Thread(target=lambda: both.append(drawn(3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert both == [alone] * 4
    assert len({live.ask("Who?", temperature=2.0).json()["choices"][0]["message"]["content"] for _ in range(4)}) > 1


def test_a_stop_text_ends_the_answer_and_the_stream(live: Live, shorts: list[Path]) -> None:
    whole = live.ask(video(shorts[0]), QUESTION).json()["choices"][0]["message"]["content"]
    stop = whole[2:4]
    cut = live.ask(video(shorts[0]), QUESTION, stop=stop).json()["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == (whole.partition(stop)[0], "stop")
    several = live.ask(video(shorts[0]), QUESTION, stop=["never generated", stop]).json()["choices"][0]
    assert several == cut


def test_a_uuid_names_the_content_for_its_owner(live: Live, shorts: list[Path]) -> None:
    first = live.ask(video(shorts[0], uuid="a"), QUESTION).json()["choices"]
    again = live.ask(video("file:///not/there.mp4", uuid="a"), QUESTION)
    assert again.status_code == 200 and again.json()["choices"] == first
    assert live.ask(video("file:///not/there.mp4", uuid="b"), QUESTION).status_code == 400
    other = live.post(
        "/v1/chat/completions",
        json=asked(video("file:///not/there.mp4", uuid="a"), QUESTION),
        headers={"Authorization": "Bearer another"},
    )
    assert other.status_code == 400


def test_models_and_health(client: openai.OpenAI, live: Live) -> None:
    assert [one.id for one in client.models.list()] == ["random"]
    assert client.models.retrieve("random").id == "random"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")
    assert live.get("/health").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"top_p": 0.5}, "top_p"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"logit_bias": {"3": 1}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"reducer": "none"}, "reducer"),
        ({"fps": -1}, "fps"),
        ({"max_frames": 0}, "max_frames"),
        ({"max_frames": 10**6}, "max_frames"),
        ({"start": 3, "end": 2}, "start"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"every": 1}}, "stream_options.every"),
        ({"keeps": 0.2}, "keeps"),
    ],
)
def test_a_field_that_is_not_honoured_is_refused_by_name(live: Live, fields: dict[str, Any], param: str) -> None:
    done = live.ask("Who?", **fields)
    error = done.json()["error"]
    assert (done.status_code, error["param"], error["type"]) == (422, param, "invalid_request_error")
    assert param in error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([], "messages"),
        ([{"role": "tool", "content": "4"}], "messages[0].role"),
        ([{"role": "user", "content": " "}], "messages"),
        ([{"role": "user", "content": [{"type": "file", "file": {}}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "Who?", "name": "Ann"}], "messages[0].name"),
        ([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann"}], "messages"),
        ([{"role": "system", "content": [video("file-a")]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "detail": "low"}}]}], "detail"),
        ([{"role": "user", "content": [video("file-a")] * 17 + [{"type": "text", "text": "?"}]}], "messages"),
        ([{"role": "user", "content": "a" * 200_001}], "messages"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content[0].text"),
    ],
)
def test_messages_are_checked(live: Live, given: list[Any], param: str) -> None:
    body = json.dumps({"model": "random", "messages": given})
    done = live.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    error = done.json()["error"]
    assert done.status_code == 422 and error["param"].endswith(param), error


def test_fields_at_their_neutral_values_and_nulls_are_accepted(live: Live) -> None:
    neutral = {"n": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "tools": []}
    done = live.ask(
        "Who?", **neutral, response_format={"type": "text"}, stop=None, keep=None, logit_bias=None, user="a"
    )
    assert done.status_code == 200
    turns = [{"role": "assistant", "content": "Ann", "refusal": None}, {"role": "user", "content": "Who?"}]
    assert live.post("/v1/chat/completions", json={"model": "random", "messages": turns}).status_code == 200


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4o", messages=messages("Who?"))
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_while_the_model_loads_the_port_is_open(tmp_path: Path) -> None:
    loaded = threading.Event()

    def load() -> EchoingPixels:
        loaded.wait(30)
        return tinymodel.model()

    with served(tmp_path, load, ready=False) as slow:
        waiting = slow.ask("Who?")
        assert (waiting.status_code, waiting.json()["error"]["code"]) == (503, "not_ready")
        assert slow.get("/health").json() == {"status": "loading"}
        assert waiting.headers["retry-after"].isdigit()
        loaded.set()
        assert slow.server.engine.open == 0


class Breaking:
    """A model that fails after a few pieces of text."""

    def __init__(self) -> None:
        self._model = tinymodel.model()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def stream(self, prompts: Any, options: Any, **more: Any) -> Iterator[Any]:
        chunks = list(self._model.stream(prompts, options, **more))
        yield from (chunk for chunk in chunks[:3])  # a generator, to which the engine can send rows
        raise RuntimeError("boom")


def test_a_failure_in_the_middle_of_a_stream_is_an_event_with_the_error(tmp_path: Path) -> None:
    with (
        served(tmp_path, Breaking) as live,  # type: ignore[arg-type]
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client,
    ):
        text = []
        with pytest.raises(openai.APIError, match="RuntimeError: boom"):
            for chunk in client.chat.completions.create(model="random", messages=messages("Who?"), stream=True):
                text.append(chunk.choices[0].delta.content)
        assert "".join(filter(None, text))
        assert live.ask("Who?").status_code == 500 and live.idle()
        assert live.metric('ep_requests_total{outcome="failed"}') == 2


def test_url_patterns_match_part_by_part() -> None:
    pattern = Pattern.of("https://*.example.com/clips/*")
    assert pattern.matches("https", "a.example.com", 443, "/clips/a.mp4?x=1")
    for other in (
        ("http", "a.example.com", 443, "/clips/a"),
        ("https", "a.example.com", 8443, "/clips/a"),
        ("https", "evil.com", 443, "/.example.com/clips/a"),
        ("https", "a.example.com.evil.com", 443, "/clips/a"),
        ("https", "a.example.com", 443, "/clips/../secret"),
        ("https", "a.example.com", 443, "/clips/%2e%2e/secret"),
        ("https", "a.example.com", 443, "/clips/%252e%252e%2fsecret"),
        ("https", "a.example.com", 443, "/other/a"),
    ):
        assert not pattern.matches(*other)
