"""Two replicas on a real local Ray: the library's answers, of which a killed replica costs those that it works on."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.errors import ModelError
from echoingpixels.serving.replicas import check_extra
from echoingpixels.serving.replicas.server import on_ray
from echoingpixels.serving.server import LOCAL, listen
from echoingpixels.serving.settings import Settings
from tests.support import tinymodel
from tests.support.served import ASK, Live, asked, leaving, program, running, slow_model, video, waited

# Ray's own code warns at import and leaves sockets open.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]
NEEDED = "EP_TEST_RAY"  # set where Ray was installed for the tests: then none is a failure
START_S = 400.0  # replicas import torch, on a busy machine
STORE = 100_000_000  # bytes of Ray's object store
CHUNK_S = 0.1  # of each piece of an answer
EACH = 3  # clients of each replica
QUESTION = "Who rings the bell?"


@pytest.fixture(scope="module", autouse=True)
def ray() -> None:
    """Ray; without it the tests are skipped, or fail where it is needed."""
    try:
        check_extra()
    except ModelError:
        message = "NO RAY: it would have proved that a replica's death costs one error. Install echoingpixels[ray]."
        if os.environ.get(NEEDED):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="module")
def pair(ray: None, tmp_path_factory: pytest.TempPathFactory, shorts: list[Path]) -> Iterator[Live]:
    """A server with two replicas of a slow model."""
    folder = tmp_path_factory.mktemp("ray")
    settings = Settings("random", folder / "uploads", ask=ASK, hosts=LOCAL, roots=(shorts[0].parent,))
    server = on_ray(settings, partial(slow_model, CHUNK_S), 2, "cpu", object_store_memory=STORE)
    with running(server, patience=START_S) as live:
        assert both_run(live)
        yield live


def both_run(live: Live) -> bool:
    """Whether there are two replicas within some time."""
    return waited(lambda: len(batches(live)) == 2, START_S)


def batches(live: Live) -> dict[str, float]:
    """Batches by replica."""
    found = re.findall(r'^ep_batch_size_count\{replica="(\S+)"\} (\S+)$', live.get("/metrics").text, re.M)
    return {name: float(number) for name, number in found}


def home(live: Live, part: dict[str, Any]) -> str:
    """The replica that answers about a clip."""
    before = batches(live)
    assert live.ask(part, QUESTION).status_code == 200
    (name,) = [one for one, number in batches(live).items() if number > before[one]]
    return name


def test_a_model_that_cannot_be_loaded_ends_the_server(ray: None, tmp_path: Path) -> None:
    # Before the others: a process has one Ray.
    server = on_ray(Settings("random", tmp_path, hosts=LOCAL), gone, 2, "cpu", object_store_memory=STORE)
    with listen("127.0.0.1", 0) as listening, pytest.raises(ModelError, match=r"^The weights are gone\. Find them\."):
        server.run(listening)


def gone() -> Any:
    raise ModelError("The weights are gone.", "Find them.")


def test_two_replicas_give_the_librarys_answers_and_share_the_clips(pair: Live, shorts: list[Path]) -> None:
    model, homes = tinymodel.model(), {}
    for clip in shorts:
        own = model.ask(clip, QUESTION, reducer=ASK.reducer, keep=ASK.keep, max_new_tokens=8)
        for cached in (False, True):
            got = pair.ask(video(clip), QUESTION).json()
            assert got["choices"][0]["message"]["content"] == own.text
            assert got["ep"]["evidence"] == own.evidence.as_dict()["evidence"]
            assert got["usage"]["prompt_tokens_details"]["cached"] is cached
        homes[clip] = home(pair, video(clip))
        assert home(pair, video(clip)) == homes[clip]
    absent = pair.ask(video(shorts[0].with_name("none.mp4")), QUESTION)
    assert absent.status_code == 400 and absent.json()["error"]["code"] == "unreadable_media"


def test_a_client_that_leaves_frees_its_place(pair: Live, shorts: list[Path]) -> None:
    assert pair.ask(video(shorts[0]), QUESTION).status_code == 200
    before = tokens(pair)
    connection = leaving(pair, asked(video(shorts[0]), QUESTION, stream=True, max_tokens=600))
    assert waited(lambda: pair.metric("ep_running") == 1)
    connection.close()
    assert waited(lambda: pair.metric("ep_running") == 0) and pair.idle()
    assert pair.ask(video(shorts[0]), QUESTION).status_code == 200  # it did not wait for 600 pieces of 0.1 s
    assert tokens(pair) <= before + 8


def tokens(live: Live) -> float:
    """Generated tokens of all replicas."""
    return sum(map(float, re.findall(r"^ep_generated_tokens_total\{\S+ (\S+)$", live.get("/metrics").text, re.M)))


@dataclass
class Client:
    """A client that asks one question about one clip again and again."""

    live: Live
    part: dict[str, Any]
    replica: str
    right: str
    stop: threading.Event
    answers: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        with httpx.Client(base_url=self.live.url, timeout=300) as http:
            while not self.stop.is_set():
                stream = (self.answers + len(self.errors)) % 2 == 0
                done = http.post("/v1/chat/completions", json=asked(self.part, QUESTION, stream=stream))
                text, error = read(done)
                if error is not None:
                    self.errors.append({**error, "retry": done.headers.get("retry-after"), "status": done.status_code})
                elif text == self.right:
                    self.answers += 1
                else:
                    self.wrong.append(done.text)


def read(done: httpx.Response) -> tuple[str, dict[str, Any] | None]:
    """The text of an answer, or its error."""
    if not done.headers["content-type"].startswith("text/event-stream"):
        body = done.json()
        return ("", body["error"]) if "error" in body else (body["choices"][0]["message"]["content"], None)
    events = [json.loads(line[6:]) for line in done.text.splitlines() if line.startswith("data: {")]
    for event in events:
        if "error" in event:
            return "", event["error"]
    assert done.text.endswith("data: [DONE]\n\n")
    return "".join(one["choices"][0]["delta"].get("content", "") for one in events), None


def test_a_replica_that_is_killed_costs_one_retryable_error_for_each_question_on_it(
    pair: Live, shorts: list[Path]
) -> None:
    model, stop = tinymodel.model(), threading.Event()
    clients: list[Client] = []
    taken: Counter[str] = Counter()
    for i in range(60):  # names of clips, until each replica has some
        clip = shorts[i % len(shorts)]
        part = video(clip, uuid=f"client{i}")
        name = home(pair, part)
        if taken[name] < EACH:
            taken[name] += 1
            own = model.ask(clip, QUESTION, reducer=ASK.reducer, keep=ASK.keep, max_new_tokens=8)
            clients.append(Client(pair, part, name, own.text, stop))
        if len(clients) == 2 * EACH:
            break
    assert sorted(taken.values()) == [EACH, EACH]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    try:
        assert waited(lambda: all(client.answers >= 2 for client in clients))
        victim = clients[0].replica
        os.kill(int(victim.rpartition("-")[2]), signal.SIGKILL)
        before = {id(client): client.answers for client in clients}
        assert waited(lambda: all(client.answers >= before[id(client)] + 3 for client in clients), START_S)
        assert waited(lambda: victim not in batches(pair) and len(batches(pair)) == 2, START_S)  # Ray made another one
        before = {id(client): client.answers for client in clients}
        assert waited(lambda: all(client.answers >= before[id(client)] + 2 for client in clients), START_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not any(client.wrong for client in clients)
    for client in clients:
        assert len(client.errors) <= (client.replica == victim), client.errors  # the question that ran there
    errors = [error for client in clients for error in client.errors]
    assert errors
    for error in errors:
        assert (error["type"], error["code"]) == ("server_error", "replica_lost") and "again" in error["message"]
        assert (error["status"], error["retry"]) in ((503, "1"), (200, None))  # the latter in the middle of a stream
    assert pair.metric('ep_requests_total{outcome="failed"}') == len(errors) and pair.idle()
    print(f"\n{len(errors)} errors of {sum(client.answers for client in clients)} answers")


def test_sigterm_ends_the_program_with_its_replicas_and_0(ray: None) -> None:
    with program("--engine", "ray", "--replicas", 2, patience=START_S) as (run, url):
        live = Live(url, None)
        done = live.ask(video(ASSETS / "demo.mp4"), "Which object is visible when the bell plays?", model="tiny")
        assert done.json()["choices"][0]["message"]["content"] == "cake"
        assert both_run(live)
        pids = [int(name.rpartition("-")[2]) for name in batches(live)]
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=120)
        assert (run.returncode, out, err.splitlines()[1:]) == (0, "", ["tiny is ready."]), err
        assert waited(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
