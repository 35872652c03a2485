"""A server on a real port: in a thread of this process, or `ep serve` as a program of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.serving.fetch import Fetcher
from echoingpixels.serving.server import LOCAL, HttpServer, Server, listen, url_of
from echoingpixels.serving.settings import Settings
from tests.support import clips, tinymodel
from tests.support.program import command, environment

KEY = "key-of-the-tests"
TOKENS = 8
ASK = AskOptions("maxmin-floors", 0.3, GenerateOptions(TOKENS))
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Live:
    """A running server."""

    url: str
    server: Any

    def post(self, path: str, **more: Any) -> httpx.Response:
        """A POST request."""
        return httpx.post(f"{self.url}{path}", timeout=PATIENCE_S, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """A GET request."""
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE_S, **more)

    def ask(self, *parts: Any, **fields: Any) -> httpx.Response:
        """A question: texts, and URLs of clips as dictionaries or paths."""
        return self.post("/v1/chat/completions", json=asked(*parts, **fields))

    def metric(self, name: str) -> float:
        """A figure of /metrics."""
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].rpartition(" ")[2])

    def idle(self) -> bool:
        """Whether the server has no open question within a few seconds."""
        return waited(lambda: self.server.engine.open == 0)


def leaving(live: Live, body: dict[str, Any]) -> socket.socket:
    """The connection of a client that has sent a question; closing it is leaving."""
    host, port = live.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), PATIENCE_S)
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def asked(*parts: Any, **fields: Any) -> dict[str, Any]:
    """The body of a question."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"model": "random", "messages": [{"role": "user", "content": content}], **fields}


def video(place: Path | str, **more: Any) -> dict[str, Any]:
    """The part of a message that shows a clip."""
    url = place.as_uri() if isinstance(place, Path) else place
    return {"type": "video_url", "video_url": {"url": url}, **more}


def waited(done: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """Whether a condition holds within some seconds."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def served(
    folder: Path, load: Callable[[], EchoingPixels], ready: bool = True, fetcher: Fetcher | None = None, **settings: Any
) -> Iterator[Live]:
    """A server of a model; it is stopped with the block. `ready`: wait until the model is loaded."""
    given = {"model": "random", "uploads": folder / "uploads", "ask": ASK, "hosts": LOCAL, **settings}
    with running(Server(Settings(**given), load, fetcher), ready) as live:
        yield live


@contextmanager
def running(server: HttpServer[Any, Any], ready: bool = True, patience: float = PATIENCE_S) -> Iterator[Live]:
    """A server in a thread of its own; it is stopped with the block."""
    listening = listen("127.0.0.1", 0)
    url = url_of(listening)
    thread = threading.Thread(target=server.run, args=(listening,))
    thread.start()
    try:
        live = Live(url, server)
        assert waited(lambda: health(url) in (200, 503))
        assert not ready or waited(lambda: health(url) == 200, patience)
        yield live
    finally:
        server.stop()
        thread.join(patience)
    assert not thread.is_alive()


@contextmanager
def program(*arguments: object, patience: float = 120.0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ep serve` with tiny as a program of its own, ready to answer, and its address. It is killed with the block."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    run = subprocess.Popen(
        command("serve", "--model", "tiny", "--port", port, "--media-root", ASSETS, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        assert waited(lambda: health(url) == 200, patience)
        yield run, url
    finally:
        run.kill()
        run.communicate()


def health(url: str) -> int | None:
    """The status of a server's /health: 200 if it is ready, 503 if it is not; None where nothing answers."""
    try:
        return httpx.get(f"{url}/health").status_code
    except httpx.TransportError:
        return None


def films(folder: Path, number: int) -> list[Path]:
    """Short clips of unequal length, each with its own frames and sound."""
    made = []
    for i in range(number):
        seconds = 1.0 + 0.5 * i
        track = clips.Track(clips.beep(seconds, 0.2 * i))
        film = clips.Film(seconds=seconds, tracks=(track,), draw=lambda n, h, w, i=i: clips.numbered(n + 37 * i, h, w))
        made.append(clips.write(folder / f"film{i}.mp4", film))
    return made


class Slow:
    """A model whose every chunk takes some time, and which counts its batches."""

    def __init__(self, model: EchoingPixels, seconds: float) -> None:
        self.batches: list[int] = []
        self.chunks = 0
        self._model, self._seconds = model, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def stream(self, prompts: Any, options: Any, **more: Any) -> Iterator[Any]:
        """As the model's."""
        self.batches.append(len(prompts))
        chunks: Any = self._model.stream(prompts, options, **more)
        left: Any = None
        with suppress(StopIteration):
            while True:
                chunk = chunks.send(left)
                time.sleep(self._seconds)
                self.chunks += 1
                left = yield chunk


def slow_model(seconds: float) -> Any:
    """The random model, each of whose chunks takes some time."""
    return Slow(tinymodel.model(), seconds)
