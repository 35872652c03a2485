"""Frames are converted in a thread beside the decoder; it ends with the reading, however that ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from echoingpixels.media import reader, rgb
from echoingpixels.media.clip import Pixels, whole
from echoingpixels.media.host import Host
from echoingpixels.options import MediaOptions
from tests.support.clips import Film, write

OPTIONS = MediaOptions(fps=10)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("convert")]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    assert not threads()
    yield write(tmp_path / "a.mp4", Film(seconds=4))
    assert not threads()  # none is left, however reading ended


def host(*resized: Pixels | Exception) -> tuple[Host, list[str]]:
    """A host that makes frames small: it returns or raises `resized` in turn; the names of the threads that called."""
    answers, callers = iter(resized), []

    def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
        callers.append(threading.current_thread().name)
        answer = next(answers, pixels[: size[0], : size[1]])
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Host(resize, frame_size=lambda *_: (28, 28)), callers


def test_all_frames_but_the_first_are_converted_in_a_thread(path: Path) -> None:
    small, callers = host()
    clip = whole(reader.stream(path, OPTIONS, small))
    assert len(clip.frames) == len(callers) == 40 and callers[0] == threading.current_thread().name
    assert {name.rpartition("_")[0] for name in callers[1:]} == {"convert"}
    full = whole(reader.stream(path, OPTIONS, Host()))
    assert np.array_equal(clip.frames, full.frames[:, :28, :28])


@pytest.mark.parametrize("error", [ValueError("no size"), MemoryError("no room")])
def test_an_error_of_the_thread_ends_the_reading(path: Path, error: Exception) -> None:
    small, callers = host(np.zeros((28, 28, 3), np.uint8), error)
    with pytest.raises(type(error), match=str(error)):
        whole(reader.stream(path, OPTIONS, small))
    assert len(callers) < 2 + rgb.WAITING + 1  # it ends before the rest of the file is read


def test_the_thread_ends_when_reading_stops_early(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoingpixels.media.decode.PIECE", 1)
    pieces = reader.stream(path, OPTIONS, Host())
    next(pieces)
    next(pieces)
    assert threads()
    pieces.close()


def test_few_frames_wait_for_a_slow_thread(path: Path) -> None:
    released, entered = threading.Event(), threading.Semaphore(0)
    submitted: list[int] = []

    def slow(pixels: Pixels, size: tuple[int, int]) -> Pixels:
        if threading.current_thread().name.startswith("convert"):
            entered.release()
            assert released.wait(60)
        return pixels[: size[0], : size[1]]

    converter = rgb.FrameConverter(lambda *_: (28, 28), 1, slow)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))[: rgb.WAITING + 2]

    def convert() -> None:
        for number, frame in enumerate(frames):
            converter(frame)
            submitted.append(number)

    thread = threading.Thread(target=convert)
    thread.start()
    assert entered.acquire(timeout=60)
    thread.join(0.2)
    assert len(submitted) <= rgb.WAITING + 1
    released.set()
    thread.join(60)
    converter.close()
    assert len(submitted) == len(frames)
