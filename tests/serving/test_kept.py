"""Kept tokens in answers, and the pictures of clips that show them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.batching import Prompt
from echoingpixels.display.pictures import shown_size
from echoingpixels.display.view import view_of
from echoingpixels.inputs.kept import kept_by_clip
from echoingpixels.inputs.positions import AUDIO
from echoingpixels.inputs.prompt import Message
from echoingpixels.inputs.token_stream import Selection, TokenStream
from echoingpixels.media import read_clip
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.serving.settings import Bounds
from tests.support import tinymodel
from tests.support.served import ASK, Live, asked, served, video

QUESTION = "Who rings the bell?"
SHORT = GenerateOptions(2)
Kept = tuple[list[int], list[int]]


def prompt(*parts: Any, before: tuple[Any, ...] = ()) -> Prompt:
    """A question about files, after another one."""
    model = tinymodel.model()
    each = [tuple(model.encode(part) if isinstance(part, Path) else part for part in one) for one in (before, parts)]
    messages = [Message("user", each[0]), Message("assistant", ("Nobody.",))] if before else []
    return Prompt.of(model, [*messages, Message("user", each[1])])


def selected(prompts: list[Prompt], options: AskOptions) -> list[list[Kept]]:
    """Numbers of the kept video and audio tokens of each clip of each prompt, counted token by token."""
    found: list[list[Kept]] = []

    def take(stream: TokenStream, selection: Selection) -> None:
        for row, one in enumerate(prompts):
            places = iter(stream.pool[row].nonzero()[:, 0].tolist())
            clips = []
            for clip in one.clips:
                kept: Kept = ([], [])
                numbers = [0, 0]
                for _ in range(clip.media.span.tokens):
                    place = next(places)
                    sound = int(stream.kind[row, place] == AUDIO)
                    if selection.keep[row, place]:
                        kept[sound].append(numbers[sound])
                    numbers[sound] += 1
                clips.append(kept)
            found.append(clips)

    list(tinymodel.model().stream(prompts, options, take))
    return found


def of(facts: Any) -> list[Kept]:
    """The kept tokens in the facts of a reply."""
    return [(one["video"], one["audio"]) for one in facts["kept"]]


@pytest.mark.parametrize("reducer", ["maxmin-floors", "cs2", "random", "seats", "full"])
def test_kept_tokens_are_those_of_the_selection(live: Live, shorts: list[Path], reducer: str) -> None:
    keep = 1.0 if reducer == "full" else 0.3
    done = live.ask(video(shorts[4]), QUESTION, kept=True, reducer=reducer, keep=keep, max_tokens=2).json()
    (own,) = selected([prompt(shorts[4], QUESTION)], AskOptions(reducer, keep, SHORT))
    assert of(done["ep"]) == own and any(own[0])
    budget = done["ep"]["kept"][0]["over_time"]
    assert [sum(budget[kind]) for kind in ("video", "audio")] == [len(numbers) for numbers in own[0]]


def test_a_later_question_has_them_too_where_the_decoder_has_read_the_clip(live: Live, shorts: list[Path]) -> None:
    kept = [live.ask(video(shorts[5]), text, kept=True, reducer="uniform").json() for text in ("Who?", "When was it?")]
    (own,) = selected([prompt(shorts[5], "Who?")], AskOptions("uniform", ASK.keep, SHORT))
    assert [of(one["ep"]) for one in kept] == [own, own]


def test_each_clip_of_a_conversation_has_its_own(live: Live, shorts: list[Path]) -> None:
    last = asked(video(shorts[1]), video(shorts[2]), "And now?")["messages"]
    messages = [*asked(video(shorts[2]), QUESTION)["messages"], {"role": "assistant", "content": "Nobody."}, *last]
    done = live.post("/v1/chat/completions", json={"model": "random", "messages": messages, "kept": True}).json()
    same = prompt(shorts[1], shorts[2], "And now?", before=(shorts[2], QUESTION))
    (own,) = selected([same], ASK)
    assert of(done["ep"]) == own and len(own) == 3 and any(own[1])


def test_rows_of_a_padded_batch_have_their_own(shorts: list[Path]) -> None:
    prompts = [prompt(shorts[0], "Who?"), prompt(shorts[5], QUESTION), prompt("Nothing?")]
    options, found = AskOptions("maxmin-floors", 0.3, SHORT), []

    def take(stream: TokenStream) -> None:
        found.extend(kept_by_clip(one.inputs, stream, row) for row, one in enumerate(prompts))

    list(tinymodel.model().stream(prompts, options, on_kept=take))
    assert [[(list(one.video), list(one.audio)) for one in row] for row in found] == selected(prompts, options)


def test_a_stream_has_them_in_its_last_chunk_and_they_are_null_unless_asked_for(live: Live, shorts: list[Path]) -> None:
    whole = live.ask(video(shorts[1]), QUESTION, kept=True).json()["ep"]
    lines = live.ask(video(shorts[1]), QUESTION, kept=True, stream=True).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]
    assert [one["ep"]["kept"] for one in chunks if "ep" in one] == [whole["kept"]] and whole["kept"]
    for fields in ({}, {"kept": False}, {"kept": None}):
        assert live.ask(video(shorts[1]), QUESTION, **fields).json()["ep"]["kept"] is None
    assert live.ask("Who?", kept=True).json()["ep"]["kept"] == []


def test_the_picture_of_an_upload_is_that_of_its_clip(live: Live, shorts: list[Path]) -> None:
    id = live.post("/v1/files", files={"file": shorts[3].read_bytes()}).json()["id"]
    before = live.metric('ep_requests_total{outcome="viewed"}')
    done = live.get(f"/v1/files/{id}/view")
    shown = view_of(read_clip(shorts[3], frame_size=shown_size), tinymodel.model().encode(shorts[3]).media.span)
    assert done.json() == json.loads(json.dumps(asdict(shown)))
    assert live.metric('ep_requests_total{outcome="viewed"}') == before + 1
    assert live.ask(video(id), "Who?").json()["usage"]["prompt_tokens_details"]["cached"]
    for name in ("file-" + 64 * "0", "data:video%2Fmp4;base64,AAAA", shorts[3].name):
        assert live.get(f"/v1/files/{name}/view").status_code == 404
    assert live.idle()


def test_a_picture_has_the_limits_of_a_question(tmp_path: Path, shorts: list[Path]) -> None:
    with served(tmp_path, tinymodel.model, bounds=Bounds(seconds=2.0, waiting=1)) as running:
        id = running.post("/v1/files", files={"file": shorts[5].read_bytes()}).json()["id"]
        assert "is longer than 2 s" in running.get(f"/v1/files/{id}/view").json()["error"]["message"]
        assert running.metric('ep_requests_total{outcome="refused"}') == 1
        place = running.server.engine.admit(lambda _: None)
        assert running.get(f"/v1/files/{id}/view").status_code == 429
        place.close()
