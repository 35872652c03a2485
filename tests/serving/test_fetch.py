"""URLs of clips: only allowed ones, only public addresses, after every redirect and where the connection is made."""

from __future__ import annotations

import hashlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echoingpixels.errors import MediaError, OptionError
from echoingpixels.serving.addresses import Pattern, is_public
from echoingpixels.serving.clips import Abandoned
from echoingpixels.serving.fetch import Fetcher
from tests.support import tinymodel
from tests.support.served import served, video
from tests.support.web import serving

CONTENT = bytes(range(256)) * 40


@dataclass
class Site:
    """A site on this machine, and the requests that it got."""

    port: int
    paths: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    film: bytes = b""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site(0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.paths.append(self.path)
            made.hosts.append(self.headers["Host"])
            getattr(self, f"_{self.path.strip('/').partition('/')[0].partition('?')[0]}", self._missing)()

        def _clip(self) -> None:
            self._head(200, **{"Content-Length": str(len(CONTENT))})
            self.wfile.write(CONTENT)

        def _film(self) -> None:
            self._head(200, **{"Content-Length": str(len(made.film))})
            self.wfile.write(made.film)

        def _endless(self) -> None:
            self._head(200)
            try:
                for _ in range(10_000):
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                pass

        def _drip(self) -> None:
            self._head(200)
            self._slow()

        def _slow(self) -> None:
            try:
                for _ in range(1000):
                    self.wfile.write(b"a")
                    time.sleep(0.05)
            except OSError:
                pass

        def _zipped(self) -> None:
            self._head(200, **{"Content-Encoding": "gzip"})
            self.wfile.write(CONTENT)

        def _to(self) -> None:
            self._head(302, Location=self.path.removeprefix("/to/"))

        def _loop(self) -> None:
            self._head(302, Location="/loop")

        def _cut(self) -> None:
            self._head(200, **{"Content-Length": "100"})
            self.wfile.write(b"a")

        def _missing(self) -> None:
            self._head(404)

        def _head(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    with serving(server):
        yield made


def local(host: str, port: int) -> list[str]:
    """A resolver for which every host is this machine."""
    return ["127.0.0.1"]


def fetcher(site: Site, most: int = 1 << 20, seconds: float = 20.0, **changed: Any) -> Fetcher:
    """A fetcher that may connect to this machine, under the name media.example.com."""
    allow = [Pattern.of(f"http://media.example.com:{site.port}/*")]
    return Fetcher(**{"allow": allow, "most": most, "seconds": seconds, "resolve": local, "public": bool, **changed})


def url(site: Site, path: str) -> str:
    return f"http://media.example.com:{site.port}/{path}"


def refused(one: Fetcher, address: str, target: Path) -> str:
    with pytest.raises(MediaError) as error:
        one.fetch(address, target, bool)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_clip_is_fetched_from_the_checked_address_under_its_own_name(site: Site, tmp_path: Path) -> None:
    digest = fetcher(site).fetch(url(site, "clip?token=1"), tmp_path / "a", bool)
    assert (tmp_path / "a").read_bytes() == CONTENT and digest == hashlib.sha256(CONTENT).hexdigest()
    assert site.paths[-1] == "/clip?token=1" and site.hosts[-1] == f"media.example.com:{site.port}"


def test_redirects_are_followed_where_they_are_allowed(site: Site, tmp_path: Path) -> None:
    fetcher(site).fetch(url(site, "to//clip"), tmp_path / "a", bool)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert "more than 5 times" in refused(fetcher(site), url(site, "loop"), tmp_path / "b")


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/clip",
        "http://localhost:{port}/clip",
        "http://[::1]:{port}/clip",
        "http://169.254.169.254/latest/meta-data",
        "http://other.example.com:{port}/clip",
        "//other.example.com/clip",
        "file:///etc/passwd",
        "gopher://media.example.com:{port}/clip",
        "http://user@media.example.com:{port}/clip",
        "http://[",
    ],
)
def test_a_redirect_to_another_place_is_refused(site: Site, tmp_path: Path, target: str) -> None:
    before = len(site.paths)
    told = refused(fetcher(site), url(site, f"to/{target.format(port=site.port)}"), tmp_path / "a")
    assert "not an allowed URL" in told or "not a URL" in told
    assert len(site.paths) == before + 1  # the redirect itself


def test_a_redirect_to_an_allowed_name_at_a_private_address_is_refused(site: Site, tmp_path: Path) -> None:
    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == "media.example.com" else ["10.0.0.1"]

    allow = [Pattern.of(f"http://*.example.com:{site.port}/*")]
    one = fetcher(site, allow=allow, resolve=resolve, public=lambda ip: ip == "127.0.0.1")
    assert "public address" in refused(one, url(site, f"to/http://in.example.com:{site.port}/clip"), tmp_path / "a")


@pytest.mark.parametrize("found", [["127.0.0.1"], ["::1"], ["93.184.216.34", "10.0.0.1"], ["::ffff:127.0.0.1"]])
def test_a_name_with_a_private_address_is_refused_before_any_connection(
    site: Site, tmp_path: Path, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(socket, "create_connection", connect)
    one = fetcher(site, resolve=lambda host, port: found, public=is_public)
    assert "not at a public address" in refused(one, url(site, "clip"), tmp_path / "a")


def test_a_name_is_resolved_once_for_each_request(site: Site, tmp_path: Path) -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    one = fetcher(site, resolve=rebinding, public=lambda ip: ip == "127.0.0.1")
    one.fetch(url(site, "clip"), tmp_path / "a", bool)
    assert asked == ["media.example.com"]


def test_a_connection_that_ends_elsewhere_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection
    here = ("127.0.0.1", site.port)
    monkeypatch.setattr(socket, "create_connection", lambda _, *more, **named: connect(here, *more, **named))
    one = fetcher(site, resolve=lambda host, port: ["93.184.216.34"], public=is_public)
    assert "address that was checked" in refused(one, url(site, "clip"), tmp_path / "a")


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "0", "[::ffff:7f00:1]"]
)
def test_other_spellings_of_this_machine_are_refused(site: Site, tmp_path: Path, host: str) -> None:
    allow = [Pattern("http", "*", site.port, "*")]
    one = Fetcher(allow, 1 << 20, 10.0)  # the real resolver
    told = refused(one, f"http://{host}:{site.port}/clip", tmp_path / "a")
    assert "public address" in told or "host is unknown" in told or "not a URL" in told


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, ssl.SSLContext]]:
    """The port of a site with TLS and a certificate for media.example.com, and a context that trusts it."""
    openssl, folder = shutil.which("openssl"), tmp_path_factory.mktemp("tls")
    if openssl is None:
        pytest.skip("no openssl: it would prove that certificates are checked against the name, not the address")
    key, certificate, name = folder / "key.pem", folder / "certificate.pem", "media.example.com"
    made = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}"
    more = ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *made.split(), *more], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that does not trust the certificate leaves."""

    server = Quiet(("127.0.0.1", 0), Handler)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate, key)
    server.socket = own.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield server.server_port, ssl.create_default_context(cafile=str(certificate))


def test_a_certificate_is_checked_against_the_name_of_the_url(
    certified: tuple[int, ssl.SSLContext], tmp_path: Path
) -> None:
    port, context = certified
    allow = [Pattern.of(f"https://*.example.com:{port}/*")]

    def made(**more: Any) -> Fetcher:
        return Fetcher(allow, 1 << 20, 10.0, resolve=local, public=bool, **more)

    made(context=context).fetch(f"https://media.example.com:{port}/a", tmp_path / "a", bool)
    assert (tmp_path / "a").read_bytes() == CONTENT
    other = f"https://other.example.com:{port}/a"
    assert "connection failed" in refused(made(context=context), other, tmp_path / "b")
    assert "connection failed" in refused(made(), f"https://media.example.com:{port}/a", tmp_path / "b")


def test_limits_on_bytes_and_seconds(site: Site, tmp_path: Path) -> None:
    assert "larger than 4096 bytes" in refused(fetcher(site, most=4096), url(site, "clip"), tmp_path / "a")
    assert "larger than 100000" in refused(fetcher(site, most=100_000), url(site, "endless"), tmp_path / "a")
    for path in ("drip", "slow"):
        began = time.monotonic()
        assert "within 0.3 s" in refused(fetcher(site, seconds=0.3), url(site, path), tmp_path / "a")
        assert time.monotonic() - began < 25  # of the 50 that the site would take


def test_a_body_that_is_compressed_cut_short_or_missing_is_refused(site: Site, tmp_path: Path) -> None:
    assert "compressed" in refused(fetcher(site), url(site, "zipped"), tmp_path / "a")
    assert "connection failed" in refused(fetcher(site), url(site, "cut"), tmp_path / "a")
    assert "status 404" in refused(fetcher(site), url(site, "nothing?secret=1"), tmp_path / "a")
    assert "secret" not in refused(fetcher(site), url(site, "nothing?secret=1"), tmp_path / "a")
    unknown = fetcher(site, resolve=lambda host, port: [])
    assert "host is unknown" in refused(unknown, url(site, "clip"), tmp_path / "a")


def test_a_client_that_leaves_ends_the_fetch(site: Site, tmp_path: Path) -> None:
    def left() -> None:
        raise Abandoned

    with pytest.raises(Abandoned):
        fetcher(site).fetch(url(site, "endless"), tmp_path / "a", left)


def test_the_server_fetches_no_other_clips(site: Site, tmp_path: Path) -> None:
    with served(tmp_path, tinymodel.model, allow=(Pattern.of("http://media.example.com/*"),)) as live:
        before = len(site.paths)
        for place in (f"http://127.0.0.1:{site.port}/clip", "https://media.example.com/a", "http://localhost/a"):
            done = live.ask(video(place), "Who?")
            assert (done.status_code, done.json()["error"]["code"]) == (400, "unreadable_media")
            assert "not an allowed URL" in done.json()["error"]["message"]
        assert len(site.paths) == before


def test_the_server_answers_about_fetched_clips_and_keeps_no_copy(
    site: Site, tmp_path: Path, shorts: list[Path]
) -> None:
    site.film = shorts[0].read_bytes()
    with served(tmp_path, tinymodel.model, fetcher=fetcher(site), roots=(shorts[0].parent,)) as live:
        done = live.ask(video(url(site, "film?a=1")), "Who?")
        assert done.json()["choices"] == live.ask(video(shorts[0]), "Who?").json()["choices"]
        broken = live.ask(video(url(site, "clip?a=1")), "Who?")
        error = broken.json()["error"]["message"]
        assert broken.status_code == 400 and error.startswith(f"{url(site, 'clip')} cannot be opened as media")
        assert not list(Path(live.server.clips._temporary.name).iterdir())


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.100.100.200"),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.0.192", "198.18.0.1", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1", "::127.0.0.1", "2001:db8::1", "localhost", ""),
    ],
)
def test_addresses_inside_a_network_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@given(
    st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fc00::/7") | st.ip_addresses(network="fe80::/10")
)
def test_every_private_address_is_refused(address: Any) -> None:
    assert not is_public(str(address))


@pytest.mark.parametrize(
    "text", ["", "*", "media.example.com/*", "ftp://a/*", "https://", "https:///a", "http://a:b/", "http://u:p@a/*"]
)
def test_a_pattern_needs_a_scheme_and_a_host(text: str) -> None:
    with pytest.raises(OptionError, match="not a pattern of URLs"):
        Pattern.of(text)
