"""The worker process: the same clips as in this process, and one clear error for every failure."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoingpixels.errors import EpError, MediaError, OptionError
from echoingpixels.media import Limits, Worker, read_clip
from echoingpixels.media.clip import PIECE
from echoingpixels.media.host import FrameSize
from echoingpixels.media.sandbox import worker as under_test
from echoingpixels.media.sandbox.process import Process
from echoingpixels.media.video import AHEAD, THREADS
from echoingpixels.options import MediaOptions
from tests.support.clips import Film, Track, beep, write
from tests.support.program import environment

pytestmark = pytest.mark.timeout(120)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="would prove that memory is limited, which Linux alone does")


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as one:
        yield one


def during(act: Callable[[], object]) -> FrameSize:
    """A frame size under which `act` is called while a file is being read."""

    def size(height: int, width: int, frames: int, image: bool) -> tuple[int, int]:
        act()
        return height, width

    return size


def broken(worker: Worker, path: Path, size: FrameSize | None = None, fps: float = 2.0) -> MediaError:
    """The error of reading `path`: one line with a hint, after which the worker reads on."""
    with pytest.raises(MediaError) as caught:
        worker.read(path, MediaOptions(fps=fps), frame_size=size)
    assert "\n" not in str(caught.value) and caught.value.hint and str(path) in caught.value.message
    assert len(worker.read(path, MediaOptions(max_frames=2), frame_size=lambda *_: (28, 28)).frames) == 2
    return caught.value


def gone(pid: int) -> bool:
    """Whether a process has ended, within some seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"frame_size": lambda height, width, *_: (height // 2, width // 2)},
        {"options": MediaOptions(start=1.1, end=2.5, fps=7, max_frames=5)},
        {"options": MediaOptions(audio=False)},
    ],
)
def test_a_clip_is_the_same_as_read_in_this_process(worker: Worker, film: Path, options: dict[str, Any]) -> None:
    here, there = read_clip(film, **options), worker.read(film, **options)
    assert (there.frames == here.frames).all() and (there.times == here.times).all()
    assert (there.duration, there.source) == (here.duration, here.source)
    assert (there.audio is None) == (here.audio is None)
    assert here.audio is None or np.array_equal(here.audio, there.audio)  # type: ignore[arg-type]
    assert there.frames.flags.writeable == here.frames.flags.writeable


def test_one_process_reads_all_files(worker: Worker, film: Path, tmp_path: Path) -> None:
    sound = write(tmp_path / "a.mp3", Film(codec=None, tracks=(Track(beep(2, 0.5), codec="libmp3lame"),)))
    assert worker.pid is None
    worker.start()
    pid = worker.pid
    for path in (film, sound, film):
        assert worker.read(path).duration > 1
    worker.check(film)
    assert worker.pid == pid is not None


def test_errors_are_those_of_reading_here(worker: Worker, film: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("This is not a film.\n" * 200)
    cases = [(tmp_path / "none.mp4", MediaOptions()), (tmp_path / "text.mp4", MediaOptions())]
    for path, options in [*cases, (film, MediaOptions(start=50)), (film, MediaOptions(audio_track=3))]:
        with pytest.raises(EpError) as here:
            read_clip(path, options)
        with pytest.raises(type(here.value)) as there:
            worker.read(path, options)
        assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)
        assert type(there.value) is (OptionError if path == film else MediaError)
    with pytest.raises(MediaError, match="looks like text"):
        worker.check(tmp_path / "text.mp4")


def test_a_relative_path_follows_this_process(worker: Worker, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.check(film)
    monkeypatch.chdir(film.parent)
    assert worker.read(film.name).source.path == film.name


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_is_an_error_that_names_the_signal(worker: Worker, film: Path, name: str) -> None:
    error = broken(worker, film, during(lambda: os.kill(worker.pid or 0, getattr(signal, name))))
    assert f"ended the process that read it ({name}" in error.message


def test_a_process_that_died_between_files_is_replaced(worker: Worker, film: Path) -> None:
    worker.check(film)
    first = worker.pid
    os.kill(first or 0, signal.SIGKILL)
    assert gone(first or 0) and len(worker.read(film).frames) == 6
    assert worker.pid not in (None, first)


def test_a_hang_ends(film: Path) -> None:
    with Worker(Limits(seconds=4.0)) as worker:
        began = time.monotonic()
        error = broken(worker, film, during(lambda: os.kill(worker.pid or 0, signal.SIGSTOP)))
        assert re.search(r"no progress for 4 s|not finished after \d+ s", error.message)
        assert time.monotonic() - began < 60


def test_a_file_that_never_ends_is_given_up_though_it_gets_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "long.mp4", Film(seconds=60, fps=60))
    monkeypatch.setattr(under_test, "PACE", 1 << 40)
    with Worker(Limits(seconds=0.05)) as worker:
        error = broken_by_time(worker, path)
    assert re.search(r"not finished after \d+ s|no progress", error.message)


def broken_by_time(worker: Worker, path: Path) -> MediaError:
    with pytest.raises(MediaError) as caught:
        worker.read(path, MediaOptions(fps=60, max_frames=4000), frame_size=lambda h, w, *_: (h, w))
    return caught.value


@LINUX
def test_memory_is_limited(tmp_path: Path) -> None:
    path = write(tmp_path / "large.mp4", Film(seconds=2, fps=30, size=(1080, 1920), gop=10))
    with Worker(Limits(bytes=300 << 20)) as worker:  # 60 frames are 356 MiB
        error = broken(worker, path, fps=30)
        assert "takes more than 0.293 GiB of memory" in error.message and "--start" in error.hint
        assert worker.read(path, MediaOptions(fps=30), frame_size=lambda *_: (56, 84)).frames.shape[0] == 60


def test_a_process_that_keeps_its_memory_is_replaced(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Worker() as worker:
        worker.check(film)
        first = worker.pid
        worker.check(film)
        assert worker.pid == first is not None
        monkeypatch.setattr(Process, "memory", lambda _: worker.limits.bytes * 3 // 4)
        worker.check(film)
        assert worker.pid is None and gone(first)


@LINUX
def test_what_is_handed_over_is_limited(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=1, size=(720, 1280)))
    with Worker(Limits(bytes=800 << 20)) as worker:
        assert worker.read(path, MediaOptions(fps=20)).frames.nbytes > 50 << 20
        last = (AHEAD + THREADS + 1) * 720 * 1280 * 3  # bytes; what still waited at the end comes with the last piece
        assert PIECE < os.fstat(worker._process.buffer.fd).st_size < PIECE + last  # type: ignore[union-attr]
        worker.check(path)
        assert os.fstat(worker._process.buffer.fd).st_size <= 4096  # type: ignore[union-attr]


def test_a_flood_of_messages_does_no_harm(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flood = "import os, threading\nthreading.Thread(target=lambda: [os.write(fd, b'x' * 65536) for _ in range(200) "
    (tmp_path / "sitecustomize.py").write_text(flood + "for fd in (1, 2)], daemon=True).start()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker() as worker:
        assert len(worker.read(film).frames) == 6


def test_a_process_that_cannot_start_is_an_error(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Worker() as worker, pytest.raises(MediaError, match=r"did not start \(exit code 3\)"):
        worker.read(film)


def test_an_error_of_the_caller_passes_through(worker: Worker, film: Path) -> None:
    def refuse() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.read(film, frame_size=during(refuse))
    assert len(worker.read(film).frames) == 6


def test_an_internal_error_carries_its_traceback(worker: Worker, film: Path) -> None:
    with pytest.raises(MediaError, match="broke the reader: ValueError") as caught:
        worker.read(film, frame_size=lambda h, w, *_: (h, w, 3))  # type: ignore[arg-type, return-value]
    assert "Traceback" in caught.value.__notes__[0]


def test_closing_ends_the_process_even_while_it_reads(film: Path) -> None:
    worker = Worker()
    worker.start()
    pid, errors = worker.pid, []

    def read() -> None:
        try:
            worker.read(film, frame_size=during(lambda: (reading.set(), time.sleep(0.5))))
        except MediaError as error:
            errors.append(error)

    reading, thread = threading.Event(), threading.Thread(target=read)
    thread.start()
    assert reading.wait(60)
    worker.close()
    thread.join()
    assert gone(pid or 0) and worker.pid is None and len(errors) == 1


def test_a_worker_that_is_forgotten_leaves_no_process(film: Path) -> None:
    worker = Worker()
    worker.check(film)
    pid = worker.pid
    del worker
    assert gone(pid or 0)


@pytest.mark.parametrize("when", ["between files", "while reading"])
def test_no_process_outlives_a_killed_program(film: Path, when: str) -> None:
    script = f"""
import os, time
from echoingpixels.media import Worker
worker = Worker()
def wait(*_):
    print(worker.pid, flush=True)
    time.sleep(100)
worker.read({str(film)!r}, frame_size=wait if {when == "while reading"} else None)
wait()
"""
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment())
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    assert not Path(f"/proc/{pid}").exists() or os.kill(pid, 0) is None
    program.kill()
    program.communicate()
    assert gone(pid)


@LINUX
def test_even_a_process_that_hangs_ends_with_the_program() -> None:
    hang = "import re; from echoingpixels.media.sandbox.child import end_with_parent; end_with_parent(); print(); "
    hang += "re.match('(a+)+$', 'a' * 60 + 'b')"  # lets no other thread of Python run
    child = subprocess.Popen(
        [sys.executable, "-uc", hang], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    assert child.stdin and child.stdout and child.stdout.readline()
    time.sleep(0.3)
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(10) == -signal.SIGIO
    child.stdout.close()


def test_the_process_imports_no_torch(worker: Worker, film: Path) -> None:
    assert worker.read(film, frame_size=lambda *_: (28, 28)).frames.shape[1:3] == (28, 28)
    maps = Path(f"/proc/{worker.pid}/maps")
    if not maps.exists():
        pytest.skip("would prove that the process is small, where /proc tells")
    loaded = maps.read_text()
    assert "libav" in loaded and "torch" not in loaded and "transformers" not in loaded
