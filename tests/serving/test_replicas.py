"""The server of several replicas, here without Ray between them: routing, limits, and the loss of a replica."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from echoingpixels.errors import ModelError
from echoingpixels.inputs.prompt import Message
from echoingpixels.model import EchoingPixels
from echoingpixels.planning import doctor
from echoingpixels.serving.chatting import AskRequest, ViewRequest
from echoingpixels.serving.media import Reference
from echoingpixels.serving.refusals import Refused
from echoingpixels.serving.replicas.deployment import ERROR, lost
from echoingpixels.serving.replicas.question import key_of
from echoingpixels.serving.replicas.replica import RemoteEvent, Replica, ReplicaFigures, settings_of_replica
from echoingpixels.serving.replicas.server import ReplicaServer
from echoingpixels.serving.server import LOCAL, listen
from echoingpixels.serving.settings import Bounds, Settings
from tests.support import tinymodel
from tests.support.program import Program
from tests.support.served import ASK, Live, asked, leaving, running, slow_model, video, waited


class Near:
    """Replicas in this process."""

    def __init__(self, settings: Settings, load: Any, number: int = 2) -> None:
        self.settings, self.load, self.number = settings, load, number
        self.replicas: list[Replica] = []
        self.dead: set[int] = set()
        self.asked: list[int] = []

    def connect(self) -> None:
        pass

    def start(self) -> None:
        own = settings_of_replica(self.settings, 32)
        self.replicas = [Replica(own, self.load, ".") for _ in range(self.number)]
        for i, replica in enumerate(self.replicas):
            replica.name = f"r{i}"

    def running(self) -> int:
        return len(self.replicas) - len(self.dead)

    def ask(self, question: AskRequest | ViewRequest, key: str | None) -> Any:
        alive = [i for i in range(self.number) if i not in self.dead]
        chosen = alive[int(key or "0", 16) % len(alive)]
        self.asked.append(chosen)
        return NearEvents(self, chosen, pickle.loads(pickle.dumps(question)))

    def figures(self) -> list[ReplicaFigures]:
        return [pickle.loads(pickle.dumps(one.figures())) for one in self.replicas]

    def stop(self) -> None:
        for replica in self.replicas:
            replica.close()


class NearEvents:
    """The events of one question, which pass between processes with Ray."""

    def __init__(self, near: Near, replica: int, question: AskRequest | ViewRequest) -> None:
        self.near, self.replica = near, replica
        self.events: Any = near.replicas[replica].ask(question)

    async def next(self) -> RemoteEvent:
        if self.replica in self.near.dead:
            raise lost()
        one = pickle.loads(pickle.dumps(await anext(self.events)))
        if self.replica in self.near.dead:
            raise lost()
        return one  # type: ignore[no-any-return]

    def cancel(self) -> None:
        self.closing = asyncio.ensure_future(self.events.aclose())


def settings(folder: Path, shorts: list[Path], **more: Any) -> Settings:
    return Settings("random", folder / "uploads", ask=ASK, hosts=LOCAL, roots=(shorts[0].parent,), **more)


def server_of(near: Near) -> ReplicaServer:
    return ReplicaServer(near.settings, near, near.number)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, shorts: list[Path]) -> Iterator[tuple[Live, Near]]:
    """A server with two replicas."""
    near = Near(settings(tmp_path_factory.mktemp("pair"), shorts), tinymodel.model)
    with running(server_of(near)) as live:
        yield live, near


def test_each_clip_has_its_replica_and_answers_are_the_librarys(pair: tuple[Live, Near], shorts: list[Path]) -> None:
    live, near = pair
    model = tinymodel.model()
    for cached in (False, True):
        del near.asked[:]
        for clip in shorts:
            got = live.ask(video(clip), "Who rings the bell?").json()
            own = model.ask(clip, "Who rings the bell?", reducer=ASK.reducer, keep=ASK.keep, max_new_tokens=8)
            assert got["choices"][0]["message"]["content"] == own.text
            assert got["usage"]["prompt_tokens_details"]["cached"] is cached
            assert got["ep"]["evidence"] == own.evidence.as_dict()["evidence"]
        assert set(near.asked) == {0, 1}
    streamed = live.ask(video(shorts[0]), "Who rings the bell?", stream=True, stream_options={"include_usage": True})
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert events[-1]["usage"]["prompt_tokens_details"]["cached"] is True
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in events[:-1])
    encoded = [live.metric(f'ep_clips_total{{replica="r{i}",source="encoded"}}') for i in (0, 1)]
    assert sum(encoded) == len(shorts) and min(encoded) > 0
    assert "ep_clips_total{source=" not in live.get("/metrics").text and live.metric("ep_queue_length") == 0
    assert live.idle()


def test_kept_tokens_and_views_come_from_the_replica_of_the_clip(pair: tuple[Live, Near], shorts: list[Path]) -> None:
    live, near = pair
    upload = live.post("/v1/files", files={"file": ("a", shorts[1].read_bytes())}).json()["id"]
    view = live.get(f"/v1/files/{upload}/view").json()
    got = live.ask(video(upload), "Who rings the bell?", kept=True).json()
    assert near.asked[-2] == near.asked[-1] and got["usage"]["prompt_tokens_details"]["cached"]
    (kept,) = got["ep"]["kept"]
    assert len(kept["audio"]) == got["usage"]["prompt_tokens_details"]["audio_tokens"]["after"] > 0
    assert view["audio_tokens"] == got["usage"]["prompt_tokens_details"]["audio_tokens"]["before"]
    assert live.get(f"/v1/files/file-{'0' * 64}/view").status_code == 404
    assert live.ask(video(upload), "Who rings the bell?").json()["ep"]["kept"] is None


def test_refusals_of_a_replica_are_those_of_a_server(pair: tuple[Live, Near], shorts: list[Path]) -> None:
    live, _ = pair
    absent = live.ask(video(shorts[0].with_name("none.mp4")), "Who?")
    assert absent.status_code == 400 and absent.json()["error"]["code"] == "unreadable_media"
    upload = live.post("/v1/files", files={"file": ("a", shorts[0].read_bytes())}).json()
    assert live.ask(video(upload["id"]), "Who?").status_code == 200
    assert live.post("/v1/files", files={"file": ("a", b"hello " * 99)}).json()["error"]["code"] == "unreadable_media"
    assert live.ask(video("file-" + "0" * 64), "Who?").status_code == 404
    assert live.ask("Who?").status_code == 200  # without a clip any replica will do


def test_a_lost_replica_is_one_retryable_error_and_in_a_stream_an_event(tmp_path: Path, shorts: list[Path]) -> None:
    near = Near(settings(tmp_path, shorts), partial(slow_model, 0.1))
    with running(server_of(near)) as live:
        clip = next(one for one in shorts if live.ask(video(one), "Who?") and near.asked[-1] == 1)
        body = asked(video(clip), "Who?", stream=True)
        with httpx.stream("POST", f"{live.url}/v1/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            near.dead.add(1)
            error = json.loads([line for line in lines if line.startswith("data: {")][-1][6:])["error"]
        assert error["code"] == "replica_lost" and error["type"] == "server_error" and "again" in error["message"]
        assert live.metric('ep_requests_total{outcome="failed"}') == 1
        assert live.ask(video(clip), "Who?").status_code == 200 and near.asked[-1] == 0
        near.dead.add(0)
        assert waited(lambda: live.get("/health").status_code == 503)
        assert live.ask(video(clip), "Who?").json()["error"]["code"] == "not_ready"
        near.dead.clear()
        assert waited(lambda: live.get("/health").status_code == 200)
        assert live.ask(video(clip), "Who?").status_code == 200
    error = lost()
    assert error.status == 503 and error.headers == {"Retry-After": "1"}


def test_a_full_queue_is_refused_and_a_client_that_leaves_frees_its_place(tmp_path: Path, shorts: list[Path]) -> None:
    bounds = Bounds(waiting=1, rows=1)
    near = Near(settings(tmp_path, shorts, bounds=bounds), partial(slow_model, 0.2))
    with running(server_of(near)) as live:
        assert live.ask(video(shorts[0]), "Who?").status_code == 200
        body = asked(video(shorts[0]), "Who?", stream=True, max_tokens=60)
        clients = [leaving(live, body) for _ in range(3)]
        assert waited(lambda: live.server.engine.open == 3)
        full = live.ask(video(shorts[0]), "Who?")
        assert full.status_code == 429 and full.json()["error"]["code"] == "queue_full" and full.headers["Retry-After"]
        for client in clients:
            client.close()
        assert live.idle()
        assert live.ask(video(shorts[0]), "Who?").status_code == 200


def test_replicas_that_cannot_be_started_end_the_server(tmp_path: Path, shorts: list[Path]) -> None:
    def load() -> EchoingPixels:
        raise ModelError("The weights are gone.", "Find them.")

    server = server_of(Near(settings(tmp_path, shorts), load))
    with listen("127.0.0.1", 0) as listening, pytest.raises(ModelError, match="weights are gone"):
        server.run(listening)
    trace = "ray.exceptions.RayTaskError: …\nechoingpixels.errors.ModelError: The weights are gone. Find them.\n"
    assert ERROR.findall(trace) == ["The weights are gone. Find them."]


def test_keys_follow_the_first_clip_or_the_clients_own_name_for_it() -> None:
    def key(*parts: str | Reference, owner: str = "a") -> str | None:
        return key_of([Message("system", ("Answer.",)), Message("user", parts)], owner)

    one, other = Reference("file-1"), Reference("file-2")
    assert key("Who?") is None
    assert key("Who?", one) == key(one, "Where?", other, owner="b") != key(other, one)
    assert key(Reference("file-1", "mine")) == key(Reference("file-2", "mine")) != key(one)
    assert key(Reference("file-1", "mine"), owner="b") != key(Reference("file-1", "mine"))


def test_refusals_pass_between_processes() -> None:
    given = Refused(429, "Full.", param="p", code="c", headers={"Retry-After": "3"})
    got = pickle.loads(pickle.dumps(given))
    assert (got.status, got.body(), got.headers) == (429, given.body(), given.headers)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--replicas", "2"), 2, "--replicas 2 needs --engine ray"),
        (("--replicas", "0"), 2, "--replicas"),
        (("--engine", "spark"), 2, "Unknown engine 'spark'"),
        (("--engine", "ray", "--device", "cuda:1"), 2, "is one GPU"),
    ],
)
def test_wrong_engines_are_one_line_and_a_hint(ep: Program, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = ep("serve", *arguments)
    first, hint = done.err.splitlines()
    assert done.code == code and told in first and hint.startswith("hint: ")


def test_without_ray_the_extra_is_named(ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = ep("serve", "--model", "tiny", "--engine", "ray")
    assert done.code == 1 and done.err.splitlines() == [
        "error: ep serve --engine ray needs the package ray[serve].",
        "hint: Install it with `pip install 'echoingpixels[ray]'`, or leave --engine out.",
    ]


def test_the_doctor_checks_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.60.0")
    (present,) = doctor.checked("ray", doctor.CHECKS["ray"])
    assert (present.state, present.seen) == ("ok", "ray 2.60.0")

    def missing(name: str) -> str:
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    (lacking,) = doctor.checked("ray", doctor.CHECKS["ray"])
    assert (lacking.state, lacking.needed) == ("missing", False) and "echoingpixels[ray]" in lacking.hint
