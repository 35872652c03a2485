"""Many clients at once: every answer is the library's, none is lost, and clients that leave cost no place."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from echoingpixels.model import EchoingPixels
from echoingpixels.options import GenerateOptions
from tests.support import tinymodel
from tests.support.served import ASK, Live, Slow, asked, served, video

CLIENTS, EACH = 8, 25
QUESTIONS = ("Who rings the bell?", "Where?", "Which object appears first, and which one last?")
REDUCERS = ("maxmin-floors", "cs2", "relevance")


def plan(client: int) -> list[tuple[int, str, str, bool]]:
    """The questions of a client: clip, text, reducer, and whether it streams."""
    draw = random.Random(client)
    return [
        (draw.randrange(6), draw.choice(QUESTIONS), draw.choice(REDUCERS), draw.random() < 0.5) for _ in range(EACH)
    ]


def own_answers(model: EchoingPixels, shorts: list[Path]) -> dict[tuple[int, str, str], str]:
    """The library's answers to all questions of all clients."""
    wanted = {one[:3] for client in range(CLIENTS) for one in plan(client)}
    encoded = [model.encode(path, cache=None) for path in shorts]
    generate: GenerateOptions = ASK.generate
    return {
        (clip, text, reducer): encoded[clip]
        .ask(text, reducer=reducer, keep=ASK.keep, max_new_tokens=generate.max_new_tokens, reuse_prefix=False)
        .text
        for clip, text, reducer in wanted
    }


def run_clients(live: Live, shorts: list[Path]) -> tuple[dict[tuple[int, int], str], list[str]]:
    """The answers by client and number, and the failures."""
    got: dict[tuple[int, int], str] = {}
    failures: list[str] = []

    def client(number: int) -> None:
        with httpx.Client(base_url=live.url, timeout=120) as http:
            for i, (clip, text, reducer, stream) in enumerate(plan(number)):
                body = {**asked(video(shorts[clip]), text, reducer=reducer, stream=stream), "model": "random"}
                done = http.post("/v1/chat/completions", json=body)
                if done.status_code == 200:
                    got[number, i] = streamed(done.text) if stream else done.json()["choices"][0]["message"]["content"]
                else:
                    failures.append(done.text)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got, failures


def streamed(text: str) -> str:
    """The joined text of server-sent events."""
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events.pop() == "[DONE]"
    return "".join(json.loads(one)["choices"][0]["delta"].get("content", "") for one in events)


def test_8_clients_with_25_questions_each_about_6_clips_get_the_librarys_answers(
    live: Live, shorts: list[Path]
) -> None:
    expected = own_answers(tinymodel.model(), shorts)
    got, failures = run_clients(live, shorts)
    assert not failures and len(got) == CLIENTS * EACH
    wrong = [key for key, text in got.items() if text != expected[plan(key[0])[key[1]][:3]]]
    assert not wrong and len(set(got.values())) > 10
    assert live.idle()
    assert live.metric("ep_batch_size_sum") == live.metric('ep_requests_total{outcome="answered"}') == CLIENTS * EACH
    assert live.metric("ep_batch_size_count") < CLIENTS * EACH  # some were answered together
    assert live.metric('ep_clips_total{source="encoded"}') == 6


@pytest.mark.slow
def test_a_third_of_clients_that_leave_at_random_cost_no_place_and_no_answer(
    tmp_path: Path, shorts: list[Path]
) -> None:
    slow = Slow(tinymodel.model(), 0.01)
    with served(tmp_path, lambda: slow, roots=(shorts[0].parent,)) as live:  # type: ignore[arg-type,return-value]
        outcomes: list[tuple[bool, int]] = []

        def client(number: int) -> None:
            draw = random.Random(number)
            for _ in range(12):
                leaves, stream = draw.random() < 1 / 3, draw.random() < 0.5
                body = asked(video(shorts[draw.randrange(6)]), draw.choice(QUESTIONS), stream=stream, max_tokens=30)
                outcomes.append((leaves, _asked(live, body, draw.uniform(0.01, 0.3) if leaves else 60.0)))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert live.idle() and not live.server.clips._flights
        assert len(outcomes) == 72 and {status for leaves, status in outcomes if not leaves} == {200}
        left = sum(status == 0 for _, status in outcomes)
        assert left > 5
        counted = {name: live.metric(f'ep_requests_total{{outcome="{name}"}}') for name in ("answered", "cancelled")}
        assert counted["answered"] >= 72 - left and sum(counted.values()) <= 72
        assert live.ask(video(shorts[0]), "Who?").status_code == 200


def _asked(live: Live, body: dict[str, Any], seconds: float) -> int:
    """The status of a question; 0 for a client that left, in the middle of a stream or before."""
    gone = threading.Event()
    timer = threading.Timer(seconds, gone.set)
    timer.start()
    try:
        limits = httpx.Timeout(seconds, connect=30.0)
        with httpx.stream("POST", f"{live.url}/v1/chat/completions", json=body, timeout=limits) as done:
            for _ in done.iter_raw():
                if gone.is_set():
                    return 0
            return done.status_code
    except httpx.TimeoutException:
        return 0
    finally:
        timer.cancel()
