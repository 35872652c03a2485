"""Fetches a clip from an allowed URL, and from no address inside a network.

A host name is resolved once for each request, every address is checked, and the connection is made to the checked
address: a name that resolves differently the next time (DNS rebinding) changes nothing. The same holds for redirects.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from ..errors import MediaError
from .addresses import PORTS, Pattern, is_public

REDIRECTS = 5
STEP_S = 15.0  # s for each step: to connect, or to get the next bytes
MOVED = (301, 302, 303, 307, 308)
CHECK = "Check the URL."

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host name. OSError for an unknown one."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


class Fetcher:
    """Fetches clips up to `most` bytes within `seconds`. `public` decides on addresses, `context` on certificates."""

    def __init__(
        self,
        allow: Sequence[Pattern],
        most: int,
        seconds: float,
        resolve: Resolve = resolve,
        public: Callable[[str], bool] = is_public,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.allow, self.most, self.seconds = tuple(allow), most, seconds
        self._resolve, self._public, self._context = resolve, public, context

    def fetch(self, url: str, target: Path, check: Callable[[], object]) -> str:
        """Write the content to `target`; its SHA-256. `check` is called now and then, and may raise.

        MediaError where the URL is not allowed, its address is not public, or the clip cannot be fetched.
        """
        end = time.monotonic() + self.seconds
        verify = True if self._context is None else self._context
        with httpx.Client(verify=verify, trust_env=False, timeout=STEP_S, follow_redirects=False) as client:
            place = url
            for _ in range(REDIRECTS + 1):
                with self._opened(client, place, end) as (response, at):
                    if response.status_code in MOVED and "location" in response.headers:
                        place = str(_joined(at, response.headers["location"]))
                        continue
                    return self._write(response, url, target, check)
        raise MediaError(f"{_shown(url)} redirects more than {REDIRECTS} times.", CHECK)

    @contextmanager
    def _opened(self, client: httpx.Client, place: str, end: float) -> Iterator[tuple[httpx.Response, httpx.URL]]:
        """The response of one address, before its body, and the URL."""
        url = self._checked(place)
        port = url.port or PORTS[url.scheme]
        address = self._address(url.raw_host.decode("ascii"), port, place)
        literal = f"[{address}]" if ":" in address else address
        headers = {"Host": url.netloc.decode("ascii"), "Accept": "*/*", "Accept-Encoding": "identity"}
        request = client.build_request("GET", url.copy_with(host=literal), headers=headers)
        request.extensions["sni_hostname"] = url.raw_host.decode("ascii")
        connection = _Connection(address, place)
        request.extensions["trace"] = connection.trace
        late = threading.Timer(max(0.0, end - time.monotonic()), connection.cut)
        late.start()
        try:
            response = client.send(request, stream=True)
            try:
                yield response, url
            finally:
                response.close()
        except httpx.HTTPError as error:
            if not connection.late:
                raise _failed(place, error) from None
        finally:
            late.cancel()
        if connection.late:  # a body of unknown length ends without an error
            raise MediaError(f"{_shown(place)} was not fetched within {self.seconds:g} s.", CHECK)

    def _checked(self, place: str) -> httpx.URL:
        """The parsed URL. MediaError if it is not allowed."""
        try:
            url = httpx.URL(place)
            host, path = url.raw_host.decode("ascii"), url.raw_path.decode("ascii")
        except (httpx.InvalidURL, ValueError, TypeError):
            raise MediaError(f"{_shown(place)} is not a URL.", CHECK) from None
        port = url.port or PORTS.get(url.scheme, 0)
        if url.userinfo or not host or not any(one.matches(url.scheme, host, port, path) for one in self.allow):
            message = f"{_shown(place)} is not an allowed URL."
            raise MediaError(message, "Upload the clip to /v1/files, or start the server with --allow-url.")
        return url

    def _address(self, host: str, port: int, place: str) -> str:
        """The address to connect to. MediaError if one of the host's addresses is not public."""
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise MediaError(f"{_shown(place)} cannot be fetched: the host is unknown.", CHECK)
        if not all(map(self._public, found)):
            raise MediaError(f"{_shown(place)} is not at a public address.", "Upload the clip to /v1/files.")
        return found[0]

    def _write(self, response: httpx.Response, url: str, target: Path, check: Callable[[], object]) -> str:
        """Write the body, which is not decompressed."""
        if response.status_code != 200:
            raise MediaError(f"{_shown(url)} cannot be fetched: status {response.status_code}.", CHECK)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise MediaError(f"{_shown(url)} cannot be fetched: its content is compressed.", CHECK)
        digest, size = hashlib.sha256(), 0
        try:
            with target.open("wb") as out:
                for data in response.iter_raw():
                    check()
                    size += len(data)
                    if size > self.most:
                        raise MediaError(
                            f"{_shown(url)} is larger than {self.most} bytes.", "Ask about a shorter clip."
                        )
                    digest.update(data)
                    out.write(data)
        except OSError as error:
            raise MediaError(f"{_shown(url)} cannot be stored: {error.strerror}.", "Try again later.") from error
        return digest.hexdigest()


class _Connection:
    """The connection of one request: its peer is checked before anything is sent, and `cut` ends it."""

    def __init__(self, address: str, place: str) -> None:
        self._address, self._place = address, place
        self._socket: socket.socket | None = None
        self.late = False

    def trace(self, event: str, about: dict[str, Any]) -> None:
        """Called by httpx for each step. MediaError if the connection was made to another address."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            stream = about["return_value"]
            self._socket = stream.get_extra_info("socket")
            peer = stream.get_extra_info("server_addr")
            if peer is None or peer[0] != self._address:
                stream.close()
                raise MediaError(f"{_shown(self._place)} is not at the address that was checked.", CHECK)
            if self.late:  # `cut` came before there was a connection
                stream.close()
                raise MediaError(f"{_shown(self._place)} was not fetched in time.", CHECK)

    def cut(self) -> None:
        """End the connection from another thread, whatever it waits for."""
        self.late = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _joined(url: httpx.URL, location: str) -> httpx.URL:
    """The target of a redirect. MediaError if it is not a URL."""
    try:
        return url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise MediaError(f"{_shown(str(url))} redirects to an address that is not a URL.", CHECK) from None


def _failed(place: str, error: Exception) -> MediaError:
    reason = "no answer in time" if isinstance(error, httpx.TimeoutException) else "the connection failed"
    return MediaError(f"{_shown(place)} cannot be fetched: {reason}.", CHECK)


def _shown(url: str) -> str:
    """A URL for a message: without its query, which may hold a signature."""
    return url.partition("?")[0][:200]
