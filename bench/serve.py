"""Throughput of `ep serve`: several clients at once against one client after another, over real connections.

Both ways ask the same questions about the same parts of a clip, whose features are in memory. Rounds alternate; the
ratio is of the medians.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import typer

from echoingpixels import load
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.serving.server import Server, listen, url_of
from echoingpixels.serving.settings import Settings
from epcli import console

QUESTIONS = (
    "Which object is visible when the bell plays?",
    "Which object appears first?",
    "Which sound is heard last?",
    "How many objects appear?",
)
PARTS = 4  # of the clip, each a clip of its own


def main(
    clip: Annotated[Path, typer.Argument(help="A clip.")],
    model: Annotated[str, typer.Option(help="The model.")] = "tiny",
    reducer: Annotated[str, typer.Option(help="The reducer.")] = "auto",
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.2,
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 32,
    clients: Annotated[int, typer.Option(help="Clients at once.")] = 8,
    questions: Annotated[int, typer.Option(help="Questions of a round.")] = 48,
    repeat: Annotated[int, typer.Option(help="Rounds that count.")] = 3,
    evidence: Annotated[bool, typer.Option(help="Find evidence times.")] = True,
) -> None:
    """Questions a second of one client and of several, with the mean size of batches."""
    ask = AskOptions(reducer, keep, GenerateOptions(tokens), evidence)
    with tempfile.TemporaryDirectory() as folder, _running(clip, model, ask, Path(folder)) as (server, url):
        bodies = [_body(clip, model, i) for i in range(questions)]
        _round(url, bodies[: PARTS * len(QUESTIONS)], 1)  # encodes all parts
        ways: dict[int, list[tuple[float, float]]] = {1: [], clients: []}
        for _ in range(repeat):
            for number, rounds in ways.items():
                before = _batches(server)
                seconds = _round(url, bodies, number)
                rounds.append((seconds, questions / (_batches(server) - before)))
    rows = []
    alone = median(seconds for seconds, _ in ways[1])
    for number, rounds in ways.items():
        seconds, rows_of_batch = (median(one[i] for one in rounds) for i in (0, 1))
        figures = (f"{seconds:.2f}", f"{questions / seconds:.1f}", f"{rows_of_batch:.1f}", f"{alone / seconds:.2f}")
        rows.append((str(number), str(questions), *figures))
    console.columns(("clients", "questions", "seconds", "questions/s", "rows of a batch", "ratio"), rows)


@contextmanager
def _running(clip: Path, model: str, ask: AskOptions, folder: Path) -> Iterator[tuple[Server, str]]:
    """A server of the model, ready to answer."""
    server = Server(Settings(model, folder, ask, roots=(clip.parent,)), partial(load, model))
    with listen("127.0.0.1", 0) as listening:
        url = url_of(listening)
        thread = threading.Thread(target=server.run, args=(listening,))
        thread.start()
        try:
            while server.engine.state == "loading":
                time.sleep(0.1)
            yield server, url
        finally:
            server.stop()
            thread.join()


def _body(clip: Path, model: str, number: int) -> dict[str, Any]:
    """The question of a number."""
    url = {"url": clip.resolve().as_uri()}
    text = QUESTIONS[number // PARTS % len(QUESTIONS)]
    content = [{"type": "video_url", "video_url": url}, {"type": "text", "text": text}]
    end = 3.0 + number % PARTS
    return {"model": model, "messages": [{"role": "user", "content": content}], "end": end}


def _round(url: str, bodies: list[dict[str, Any]], clients: int) -> float:
    """Seconds until all questions are answered."""
    left, lock = iter(bodies), threading.Lock()

    def client() -> None:
        with httpx.Client(base_url=url, timeout=600) as http:
            while True:
                with lock:
                    body = next(left, None)
                if body is None:
                    return
                http.post("/v1/chat/completions", json=body).raise_for_status()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _batches(server: Server) -> float:
    """Number of batches so far."""
    return server.engine.metrics.registry.get_sample_value("ep_batch_size_count") or 0.0


if __name__ == "__main__":
    typer.run(main)
