"""Spoiled, unusual and foreign files: a clip or one clear line, in time and in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from echoingpixels.errors import MediaError
from echoingpixels.media import Worker
from echoingpixels.options import MediaOptions
from tests.support import clips, fuzz, realclips
from tests.support.fuzz import SIZE
from tests.support.made import MADE, huge, without_frames
from tests.support.program import Program

GROWTH = 100 << 20  # bytes that the worker may grow by after the first files
SEEN = MediaOptions(max_frames=4, end=2.0)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(fuzz.LIMITS) as one:
        yield one


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fuzz.made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def samples() -> list[Path]:
    """One film, one song and one picture in 37 formats, and texts."""
    try:
        return realclips.samples("audio", "image", "video", "text")
    except OSError as error:
        message = f"SAMPLES MISSING: they would have proved that files of many makers are read. {error}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def healthy(tally: fuzz.Tally, count: int) -> None:
    """Nothing went wrong, and both outcomes occurred."""
    assert tally.wrong == {}
    assert len(tally.seconds) == count and len(tally.processes) == 1
    assert tally.clips > count / 10 and tally.warned > count / 50 and tally.refused.total() > count / 10
    assert max(tally.seconds) < fuzz.LIMITS.seconds
    after = tally.rss[fuzz.WARM :] or [0]
    assert max(after) - after[0] < GROWTH


@pytest.mark.parametrize("name", MADE)
def test_unusual_media_are_read_whole(worker: Worker, name: str, tmp_path: Path) -> None:
    path, seconds = MADE[name](tmp_path)
    clip = worker.read(path, frame_size=SIZE)
    fuzz.check(clip)
    assert clip.duration == pytest.approx(seconds, abs=0.06)
    assert clip.source.warnings == () and (len(clip.frames) > 0) == (clip.source.kind != "audio")
    assert (clip.audio is not None) == (clip.source.audio is not None)


@pytest.mark.parametrize(("make", "message"), [(without_frames, "no frame or sound"), (huge, "too large an image")])
def test_what_holds_no_picture_is_refused(worker: Worker, make: fuzz.Maker, message: str, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        worker.read(make(tmp_path), SEEN, frame_size=SIZE)
    assert caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.timeout(120)
def test_spoiled_files_are_a_clip_or_a_clear_line(media: list[Path]) -> None:
    healthy(fuzz.run(media, 400, seed=1), 400)


@pytest.mark.timeout(120)
def test_samples_of_many_makers_are_read_or_refused(worker: Worker, samples: list[Path]) -> None:
    tally = fuzz.Tally()
    for path in samples:
        assert fuzz.outcome(worker, path, SEEN, tally) == "", path
    texts = [path for path in samples if path.parent.name == "text"]
    assert tally.clips == len(samples) - len(texts) - 1  # demo.psd, a drawing in layers
    assert tally.refused.total() == len(texts) + 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whole_samples_are_read_without_a_warning_but_for_those_that_are_damaged(
    worker: Worker, samples: list[Path]
) -> None:
    warned = set()
    for path in samples:
        if path.parent.name in ("audio", "video"):
            clip = worker.read(path, frame_size=SIZE)
            fuzz.check(clip)
            assert clip.source.kind == path.parent.name
            # FFmpeg 8.1 refuses 1,074 of the Theora packets, the last ones among them.
            frames = (
                {"demo.gif": 10, "demo.ogg": 119, "demo.ogv": 119}.get(path.name, 120)
                if path.parent.name == "video"
                else 0
            )
            assert len(clip.frames) == frames
            warned |= {path.name} if clip.source.warnings else set()
    assert warned == {"demo.asf", "demo.ogg", "demo.ogv"}  # a false length; packets that FFmpeg cannot decode


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_spoiled_files_are_a_clip_or_a_clear_line(media: list[Path], samples: list[Path]) -> None:
    seeds = media + [path for path in samples if path.parent.name != "text"]
    healthy(fuzz.run(seeds, 6_000), 6_000)


@pytest.mark.parametrize("name", ["mp4", "webm", "mp3", "gif", "jpg", "4096 wide", "one pixel", "longer sound"])
def test_a_spoiled_file_is_answered_or_refused_by_ask(ep: Program, name: str, tmp_path: Path, worker: Worker) -> None:
    source = MADE[name](tmp_path)[0]
    answered = 0
    for _, path, _ in fuzz.spoil([source], 6, 3, tmp_path):
        done = ep("ask", path, "What is seen or heard?", "--json", "--max-new-tokens", 2, "--max-frames", 4)
        if done.code == 0:
            answered += 1
            assert isinstance(json.loads(done.out)["answer"], str)
        else:
            error, hint = done.err.splitlines()
            assert done.code == 1 and error.startswith("error: ") and hint.startswith("hint: ")
            assert "internal" not in error and path.name in error
    done = ep("ask", source, "What is seen or heard?", "--json", "--max-new-tokens", 2)
    assert done.code == 0 and json.loads(done.out)["answer"] is not None


def test_silence_alone_is_refused_as_nothing_to_answer_from(ep: Program, tmp_path: Path) -> None:
    path = clips.write(tmp_path / "a.wav", clips.Film(codec=None, tracks=(clips.Track(clips.beep(1, 5), "pcm_s16le"),)))
    for more in ([], ["--dry-run"]):
        done = ep("ask", path, "Who?", *more)
        assert done.code == 1 and "a.wav has no input for the model: no video, and its audio" in done.err
    short = clips.write(
        tmp_path / "b.wav", clips.Film(codec=None, tracks=(clips.Track(clips.beep(0.01, 0.0), "pcm_s16le"),))
    )
    assert "only 0.01 s of audio" in ep("ask", short, "Who?").err
