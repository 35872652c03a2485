"""Uploads: named by content, with an expiry time and limits, and no way to name another file."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echoingpixels.serving.files import FileStore
from echoingpixels.serving.refusals import Refused


class Clock:
    """A clock that a test sets."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> FileStore:
    return FileStore(tmp_path / "uploads", 1000, 2500, 60.0, clock)


def put(store: FileStore, content: bytes) -> str:
    return store.put(io.BytesIO(content)).id


def test_equal_contents_have_one_name_and_one_file(store: FileStore) -> None:
    first, second, other = (put(store, content) for content in (b"a", b"a", b"b"))
    assert first == second != other and len(list(store.folder.iterdir())) == 2
    assert store.get(first).path.read_bytes() == b"a" and store.get(first).bytes == 1


def test_an_upload_expires_and_an_equal_one_extends_it(store: FileStore, clock: Clock) -> None:
    id = put(store, b"a")
    assert store.get(id).expires == clock.now + 60
    clock.now += 50
    put(store, b"a")
    clock.now += 50
    assert store.get(id).created == clock.now - 50
    clock.now += 20
    with pytest.raises(Refused) as refused:
        store.get(id)
    assert refused.value.status == 404 and not list(store.folder.iterdir())


def test_a_sweep_deletes_expired_uploads_and_unfinished_ones(store: FileStore, clock: Clock) -> None:
    put(store, b"a")
    (store.folder / "x.part").touch()
    clock.now += 61
    kept = put(store, b"b")
    clock.now = max(clock.now, (store.folder / "x.part").stat().st_mtime) + 4000
    put(store, b"b")
    store.sweep()
    assert [file.name for file in store.folder.iterdir()] == [kept.removeprefix("file-")]


def test_limits_of_one_upload_and_of_all(store: FileStore, clock: Clock) -> None:
    for content, status in ((b"", 400), (bytes(1001), 413)):
        with pytest.raises(Refused) as refused:
            put(store, content)
        assert refused.value.status == status
    assert not list(store.folder.iterdir())
    ids = []
    for i in range(3):
        clock.now += 1
        ids.append(put(store, bytes([i]) * 1000))
        store.get(ids[0])
    assert [present(store, id) for id in ids] == [True, False, True]  # the first was used last


def present(store: FileStore, id: str) -> bool:
    try:
        store.get(id)
    except Refused:
        return False
    return True


@given(st.text() | st.from_regex(r"file-[./0-9a-fA-F%]{60,70}"))
def test_no_other_name_is_a_file(tmp_path_factory: pytest.TempPathFactory, id: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    (folder / "secret").write_text("secret")
    store = FileStore(folder / "uploads", 1000, 2500, 60.0)
    assert not present(store, id) and not present(store, "file-../secret")
    assert (folder / "secret").read_text() == "secret"


def test_uploads_from_several_threads(store: FileStore) -> None:
    threads = [threading.Thread(target=put, args=(store, bytes([i % 2]) * 900)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.stat().st_size for file in store.folder.iterdir()) == [900, 900]
