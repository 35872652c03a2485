"""Runs the server: opens its port, loads the model, and finishes running questions when it is asked to stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Generic, TypeVar

import uvicorn

from ..errors import DataError, OptionError
from ..model import EchoingPixels
from .app import create_app
from .backend import Backend, Checker
from .chatting import PendingQuestion, ServedQuestion
from .clips import ServedClips
from .engine import InferenceEngine
from .fetch import Fetcher
from .files import FileStore
from .guards import Guard
from .metrics import Metrics
from .settings import Settings

CONNECTIONS = 1024  # open ones at most
STOP = (signal.SIGINT, signal.SIGTERM)
LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))

B = TypeVar("B", bound=Backend)
C = TypeVar("C", bound=Checker)
Say = Callable[[str], object]


class HttpServer(Generic[B, C]):
    """A server: the part that answers, the part that checks uploads, the uploads, and the ASGI application."""

    def __init__(
        self, settings: Settings, engine: B, clips: C, files: FileStore, admit: Callable[[], ServedQuestion]
    ) -> None:
        self.settings, self.engine, self.clips, self.files = settings, engine, clips, files
        self.app: Guard = create_app(settings, engine, clips, files, admit)
        self._inner: _Stoppable | None = None

    def run(self, listening: socket.socket, say: Say = bool) -> bool:
        """Answer requests until SIGTERM or Ctrl-C, which is reported by True. Raises the error of a failed load."""
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            server_header=False,
            loop="asyncio",  # also where Ray has installed others
            http="h11",
            ws="none",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=max(1, int(self.settings.bounds.grace_s)),
        )
        inner = self._inner = _Stoppable(config)
        self.engine.failed = inner.stop
        self.engine.ready = lambda: say(f"{self.settings.model} is ready.")
        url = url_of(listening)
        say(f"Serving {self.settings.model} at {url}/v1, with a page at {url}/ (Ctrl-C stops). Loading the model …")
        self.start()
        try:
            inner.run(sockets=[listening])
        finally:
            self.close()
        if self.engine.failure is not None:
            raise self.engine.failure
        return signal.SIGINT in inner.signals

    def start(self) -> None:
        """Start the thread that loads the model, and the processes that read media."""
        self.engine.start()
        self.clips.start()

    def stop(self) -> None:
        """End `run`, as SIGTERM does; from any thread."""
        if self._inner is not None:
            self._inner.stop()

    def close(self) -> None:
        """Stop the inference thread, the readers and their processes."""
        self.engine.close()
        self.clips.close()


class Server(HttpServer[InferenceEngine, ServedClips]):
    """A server whose model is in this process."""

    def __init__(self, settings: Settings, load: Callable[[], EchoingPixels], fetcher: Fetcher | None = None) -> None:
        engine, files = InferenceEngine(load, settings.bounds, Metrics()), file_store(settings)
        clips = ServedClips(engine, settings, files, fetcher)
        engine.settled = clips.trim
        super().__init__(settings, engine, clips, files, partial(PendingQuestion, engine, clips))


class _Stoppable(uvicorn.Server):
    """The same, which ends by itself after a signal, where uvicorn would raise the signal again."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.signals: list[int] = []

    def stop(self) -> None:
        """Stop accepting requests, finish the running ones, and end."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on the first signal, and end at once on the second."""

        def handle(number: int, _: FrameType | None) -> None:
            self.force_exit = bool(self.signals)
            self.signals.append(number)
            self.stop()

        try:
            before = {one: signal.signal(one, handle) for one in STOP}
        except ValueError:  # not the main thread, as in tests
            before = {}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def file_store(settings: Settings) -> FileStore:
    """The uploads of a server."""
    bounds = settings.bounds
    return FileStore(settings.uploads, bounds.upload, bounds.uploads, bounds.expiry_s)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. DataError where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise DataError(f"{host}:{port} cannot be opened: {reason}.", "Choose another --host or --port.") from error
    return listening


def url_of(listening: socket.socket) -> str:
    """The address of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(host: str, keys: tuple[str, ...], insecure: bool) -> frozenset[str] | None:
    """The names that requests may use for a server at `host`; None for any, where a key is needed.

    Without a key only local ones: any page in a browser can let its own name stand for this machine. OptionError for a
    server that other machines reach without a key.
    """
    if keys:
        return None
    if is_loopback(host):
        return LOCAL | {host}
    if not insecure:
        message = f"--host {host} is reachable from other machines, and there is no API key."
        raise OptionError(message, "Add --api-key-file FILE, or --insecure.")
    return None
