"""Hostile and broken requests: each is refused in one line, and the server goes on answering."""

from __future__ import annotations

import base64
import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from echoingpixels.errors import MediaError
from echoingpixels.serving import clips, guards
from echoingpixels.serving.bodies import ChatRequest
from echoingpixels.serving.guards import HEADERS
from echoingpixels.serving.settings import Bounds
from tests.support import tinymodel
from tests.support.hostile import broken_files, one_line_error
from tests.support.served import KEY, Live, asked, served, video, waited

MB = 1 << 20


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, shorts: list[Path]) -> Iterator[Live]:
    """A server with keys and small limits."""
    bounds = Bounds(upload=MB, body=2 * MB, bodies=3 * MB, uploads_at_once=2)
    folder, roots = tmp_path_factory.mktemp("closed"), (shorts[0].parent,)
    with served(folder, tinymodel.model, keys=("another-key", KEY), bounds=bounds, roots=roots, hosts=None) as running:
        yield running


def keyed(**more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}", **more}


def test_broken_uploads_are_refused_and_not_kept(live: Live, shorts: list[Path]) -> None:
    for name, content in broken_files(shorts[0]).items():
        done = live.post("/v1/files", files={"file": (name, content)}, data={"purpose": "user_data"})
        error = one_line_error(done, 400)
        assert error["code"] == "unreadable_media" and str(live.server.files.folder) not in error["message"], name
    assert not list(live.server.files.folder.iterdir())


def test_broken_clips_in_a_request_are_refused_as_ep_ask_refuses_them(live: Live, shorts: list[Path]) -> None:
    for name, content in broken_files(shorts[0]).items():
        inline = "data:video/mp4;base64," + base64.b64encode(content).decode()
        error = one_line_error(live.ask(video(inline), "Who?"), 400)
        assert error["message"].startswith(("data:video/mp4 ", "Reading data:video/mp4 ")), (name, error)
    assert live.ask(video(shorts[0]), "Who?").status_code == 200 and live.idle()


def test_spoiled_clips_are_answered_or_refused(live: Live, shorts: list[Path]) -> None:
    content, statuses = shorts[0].read_bytes(), set()
    for seed in range(12):
        draw, spoiled = random.Random(seed), bytearray(content)
        for _ in range(draw.randrange(1, 40)):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        end = len(spoiled) if seed % 2 else draw.randrange(100, len(spoiled))
        inline = "data:video/mp4;base64," + base64.b64encode(spoiled[:end]).decode()
        done = live.ask(video(inline), "Who?", max_tokens=1)
        statuses.add(done.status_code)
        assert done.status_code == 200 or one_line_error(done, 400)
    assert statuses == {200, 400} and live.idle()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.mp4",
        "/etc/passwd",
        "../../etc/passwd",
        "file-../../etc/passwd",
        "ftp://example.com/a.mp4",
        "concat:/etc/passwd|/etc/passwd",
        "subfile,,start,0,end,10,,:/etc/passwd",
        "crypto:file:/etc/passwd",
        "data:,hello",
        "data:video/mp4,hello",
        "data:video/mp4;base64,",
        "data:video/mp4;base64,%%%",
        "data:video/mp4;base64,AAA",
        "data:" + "a" * 5000,
        "javascript:alert(1)",
        "file-\u2028\n\0",
        "\0",
        "https://media.example.com/a.mp4",
    ],
)
def test_urls_of_no_clip(live: Live, url: str) -> None:
    one_line_error(live.ask(video(url), "Who?"), 400, 404)


def test_files_outside_the_media_root_are_refused_alike(live: Live, shorts: list[Path], tmp_path: Path) -> None:
    root, outside = shorts[0].parent, tmp_path / "secret.mp4"
    outside.write_bytes(shorts[0].read_bytes())
    link, folder = root / "link.mp4", root / "folder"
    link.symlink_to(outside)
    folder.symlink_to(tmp_path)
    places = [
        outside.as_uri(),
        link.as_uri(),
        f"{folder.as_uri()}/secret.mp4",
        f"{root.as_uri()}/../{tmp_path.name}/secret.mp4",
        f"{root.as_uri()}/%2e%2e/secret.mp4",
        f"{root.as_uri()}/%2e%2e%2fsecret.mp4",
        "file:///etc/passwd",
        "file:///not/there.mp4",
        f"file://example.com{shorts[0]}",
        f"file:///{root}%00/film0.mp4",
        "file:///proc/self/environ",
        "file:///dev/zero",
        f"{root.as_uri()}-other/film0.mp4",
    ]
    try:
        for place in places:
            error = one_line_error(live.ask(video(place), "Who?"), 400)
            assert error["message"].startswith(f"{place[:20]}") and "is not under a media root" in error["message"]
    finally:
        link.unlink()
        folder.unlink()
    error = one_line_error(live.ask(video(f"{root.as_uri()}/nothing.mp4"), "Who?"), 400)
    assert error["message"].startswith(f"{root.as_uri()}/nothing.mp4 cannot be read")
    assert "is a folder" in one_line_error(live.ask(video(root), "Who?"), 400)["message"]
    assert live.ask(video(f"{root.as_uri()}/film0.mp4"), "Who?").status_code == 200


BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "not UTF-8": b'{"model": "\xff"}',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "a long number": b'{"seed": ' + b"9" * 10_000 + b"}",
    "NaN": b'{"model": "random", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    "infinity": b'{"model": "random", "messages": [{"role": "user", "content": "a"}], "fps": 1e999}',
    "twice": b'{"model": "random", "model": "other", "messages": [{"role": "user", "content": "a"}]}',
    "empty": b"{}",
    "many messages": json.dumps({"model": "random", "messages": [{"role": "user", "content": "a"}] * 1025}).encode(),
    "a long role": json.dumps({"model": "random", "messages": [{"role": "a" * 10_000, "content": "a"}]}).encode(),
    "a long field": json.dumps({"model": "random", "a" * 10_000: 1}).encode(),
    "a huge stop": json.dumps({**asked("a"), "stop": "a" * 10_000}).encode(),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_request(live: Live, name: str) -> None:
    for kind in ("application/json", "text/plain"):
        done = live.post("/v1/chat/completions", content=BODIES[name], headers={"Content-Type": kind})
        one_line_error(done, 400, 404, 422)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"a" * 1000, "multipart/form-data; boundary=b"),
        (b"--b\r\n", "multipart/form-data; boundary=b"),
        (
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\na\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        (b"--b\r\n" + b"A: b\r\n" * 20_000 + b"\r\n\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (b"file=a&purpose=b", "application/x-www-form-urlencoded"),
        (b'{"file": "a"}', "application/json"),
    ],
)
def test_forms_that_are_no_upload(live: Live, content: bytes, kind: str) -> None:
    one_line_error(live.post("/v1/files", content=content, headers={"Content-Type": kind}), 400, 422)


def test_a_name_of_an_upload_is_not_used(live: Live, shorts: list[Path]) -> None:
    for name in ("../../../tmp/evil.mp4", "/etc/evil", "a\0b", "a" * 3000, "con", "<script>"):
        done = live.post("/v1/files", files={"file": (name, shorts[0].read_bytes())})
        assert done.status_code == 200 and name not in done.text
    assert len(list(live.server.files.folder.iterdir())) == 1


@pytest.mark.parametrize("path", ["/v1/files/../../etc/passwd", "/v1/files/file-%2e%2e%2f", "/v1/files/..%2f..%2fetc"])
def test_paths_of_other_files(live: Live, path: str) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as raw:  # a client would resolve the dots
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404") and b"root:" not in answer


def test_the_files_of_the_server_are_not_listed(live: Live) -> None:
    for method, path in (("GET", "/v1/files"), ("DELETE", "/v1/files"), ("GET", "/docs"), ("GET", "/static/")):
        one_line_error(httpx.request(method, f"{live.url}{path}"), 404, 405)


def test_a_key_is_needed(closed: Live) -> None:
    for headers in (
        {},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"X-Api-Key": KEY},
    ):
        for path in ("/v1/models", "/v1/files/file-a", "/metrics", "/openapi.json", "/nothing"):
            error = one_line_error(closed.get(path, headers=headers), 401)
            assert error["code"] == "invalid_api_key"
        assert closed.post("/v1/chat/completions", json=asked("Who?"), headers=headers).status_code == 401
    assert closed.get("/health").status_code == 200
    for key in (KEY, "another-key"):
        assert closed.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_every_key_is_compared_in_constant_time(closed: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = guards.hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(guards.hmac, "compare_digest", compare)
    closed.get("/v1/models", headers={"Authorization": "Bearer another-key"})
    assert [b for _, b in compared] == [b"another-key", KEY.encode()]


def test_bodies_above_the_limit(closed: Live) -> None:
    url, headers = f"{closed.url}/v1/chat/completions", keyed(**{"Content-Type": "application/json"})
    assert one_line_error(httpx.post(url, content=bytes(2 * MB + 1), headers=headers), 413)["code"] == "too_large"
    chunks = (bytes(1 << 16) for _ in range(100))
    one_line_error(httpx.post(url, content=chunks, headers=headers), 413)
    big = {"file": ("a", bytes(2 * MB + 1))}
    one_line_error(httpx.post(f"{closed.url}/v1/files", files=big, headers=keyed()), 413)
    just = {"file": ("a", bytes(MB + 1))}  # within the form, above the file's limit
    one_line_error(httpx.post(f"{closed.url}/v1/files", files=just, headers=keyed()), 413)
    for length in ("-1", "a", "1" * 30):
        assert _raw(closed, f"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n") in (400, 413)
    assert closed.server.app._held == 0 and not list(closed.server.files.folder.iterdir())


def _raw(live: Live, head: str) -> int:
    """The status of a request as it is written here."""
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as raw:
        raw.sendall(head.replace("\r\n\r\n", f"\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n").encode())
        return int(raw.makefile("rb").readline().split()[1])


def test_all_bodies_that_are_being_read_have_a_limit_together(closed: Live) -> None:
    host, port = closed.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {2 * MB}\r\n\r\n"
    held = [socket.create_connection((host, int(port)), 10) for _ in range(2)]
    for raw in held:
        raw.sendall(head.encode() + bytes(MB + MB // 4))
    assert waited(lambda: closed.server.app._held > 2 * MB)
    done = httpx.post(f"{closed.url}/v1/chat/completions", content=bytes(2 * MB), headers=keyed())
    assert one_line_error(done, 429)["code"] == "busy"
    for raw in held:
        raw.close()
    assert waited(lambda: closed.server.app._held == 0)


def test_pages_of_other_sites_and_other_names_of_the_host_are_refused(live: Live) -> None:
    host = live.url.removeprefix("http://")
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "["}):
        one_line_error(live.get("/v1/models", headers=headers), 400, 403)
    one_line_error(live.get("/v1/models", headers={"Origin": "http://[x"}), 403)
    for headers in ({"Origin": f"http://{host}"}, {"Host": "localhost:1"}, {"Host": "127.0.0.1"}):
        given = {"Host": host, **headers}
        assert live.get("/v1/models", headers=given).status_code == 200


@pytest.mark.parametrize("junk", ["items", "keys", "tools"])
def test_a_body_of_junk_is_one_error_however_long(junk: str) -> None:
    user = {"role": "user", "content": [0] * 50_000 if junk == "items" else "Who?"}
    more = {"keys": {f"k{i}": 1 for i in range(50_000)}, "tools": {"tools": [0] * 50_000}}.get(junk, {})
    with pytest.raises(ValidationError) as refused:
        ChatRequest.model_validate({"model": "random", "messages": [user], **more})
    assert refused.value.error_count() == 1


def test_a_body_that_stalls_gives_its_place_back(closed: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "STALLED_S", 0.3)
    host, port = closed.url.removeprefix("http://").split(":")
    for path in ("/v1/chat/completions", "/v1/files"):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9999\r\n"
        with socket.create_connection((host, int(port)), 10) as raw:
            raw.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode())
            assert b" 408 " in raw.recv(4096).split(b"\r\n")[0]
    assert waited(lambda: closed.server.app._held == 0 and closed.server.app._forms == 0)


def test_a_failed_check_does_not_delete_an_equal_upload(
    live: Live, monkeypatch: pytest.MonkeyPatch, shorts: list[Path]
) -> None:
    def upload() -> httpx.Response:
        return httpx.post(f"{live.url}/v1/files", files={"file": ("a", shorts[0].read_bytes())}, timeout=60)

    good = upload()
    broken: Future[None] = Future()
    broken.set_exception(MediaError("The process could not be started.", "Try again."))
    monkeypatch.setattr(live.server.clips, "check", lambda *_: broken)
    one_line_error(upload(), 400)
    assert live.get(f"/v1/files/{good.json()['id']}").status_code == 200


@pytest.mark.parametrize(("bounds", "why"), [(Bounds(seconds=0.5), "longer than 0.5 s"), (Bounds(prompt=40), "tokens")])
def test_a_clip_or_a_prompt_that_is_too_long_is_refused(
    tmp_path: Path, shorts: list[Path], bounds: Bounds, why: str
) -> None:
    with served(tmp_path, tinymodel.model, roots=(shorts[0].parent,), bounds=bounds) as running:
        done = running.ask(video(shorts[0].as_uri()), "Who?", max_tokens=1)
        assert why in one_line_error(done, 400, 422)["message"]


def test_every_response_has_security_headers_and_no_permission_for_other_origins(live: Live) -> None:
    for done in (live.get("/health"), live.get("/nothing"), live.get("/v1/models", headers={"Origin": "null"})):
        assert {name: done.headers[name] for name in HEADERS} == HEADERS
        assert not [name for name in done.headers if name.lower().startswith("access-control")]
        assert "server" not in done.headers


def test_uploads_at_once_have_a_limit(closed: Live, monkeypatch: pytest.MonkeyPatch, shorts: list[Path]) -> None:
    go, started = threading.Event(), threading.Semaphore(0)
    put = closed.server.files.put

    def slow(source: Any) -> Any:
        started.release()
        go.wait(30)
        return put(source)

    monkeypatch.setattr(closed.server.files, "put", slow)
    done: list[int] = []

    def upload() -> None:
        files = {"file": ("a", shorts[0].read_bytes())}
        done.append(httpx.post(f"{closed.url}/v1/files", files=files, headers=keyed(), timeout=60).status_code)

    threads = [threading.Thread(target=upload) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert started.acquire(timeout=30)
    upload()
    go.set()
    for thread in threads:
        thread.join()
    assert done == [429, 200, 200]


def test_messages_name_no_path_of_the_server(live: Live, shorts: list[Path]) -> None:
    upload = live.post("/v1/files", files={"file": ("a", shorts[0].read_bytes())}).json()
    done = live.ask(video(upload["id"]), "Who?", start=99)
    error = one_line_error(done, 422)
    assert os.sep + "uploads" not in error["message"] and upload["id"] in error["message"]
    stored = live.server.files.get(upload["id"]).path
    stored.write_bytes(b"hello")
    error = one_line_error(live.ask(video(upload["id"]), "Who?", fps=3), 400)
    assert (
        error["message"].startswith(f"{upload['id']} cannot be opened") and str(stored.parent) not in error["message"]
    )
    stored.unlink()


def test_an_upload_that_is_deleted_at_the_wrong_moment_is_not_found(
    live: Live, shorts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = live.post("/v1/files", files={"file": ("a", shorts[1].read_bytes())}).json()
    found = live.server.files.get(upload["id"])
    found.path.unlink()
    monkeypatch.setattr(live.server.files, "get", lambda id: found)
    error = one_line_error(live.ask(video(upload["id"]), "Who?"), 404)
    assert str(found.path.parent) not in error["message"]


def test_uuids_are_forgotten_when_there_are_too_many(
    live: Live, shorts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "NAMES", 3)
    for i in range(6):
        assert live.ask(video(shorts[0], uuid=f"u{i}"), "Who?").status_code == 200
    assert {name[1] for name in live.server.clips._named} == {"u3", "u4", "u5"}


def test_a_worker_process_that_dies_is_one_error(live: Live, shorts: list[Path]) -> None:
    for worker in live.server.clips._readers.every:
        worker.close()
    assert live.ask(video(shorts[0]), "Who?", fps=1.25).status_code == 200


def test_a_failure_that_nobody_expected_is_a_500_without_its_text(
    live: Live, shorts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(live.server.files, "get", fail)
    error = one_line_error(live.get("/v1/files/file-a"), 500)
    assert "secret" not in error["message"] and error["type"] == "server_error"
    monkeypatch.undo()
    assert live.ask(video(shorts[0]), "Who?").status_code == 200
