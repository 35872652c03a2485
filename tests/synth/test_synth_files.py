"""SyncClips files: decoded clips show their timeline, and data sets resume."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from echoingpixels.errors import OptionError
from echoingpixels.synth.dataset import generate
from echoingpixels.synth.encode import encode, read_signature, signature
from echoingpixels.synth.plan import plan
from echoingpixels.synth.timeline import Event, Timeline


def audible(line: Timeline) -> list[Event]:
    return [event for event in line.events if event.kind != "object"]


def lone_starts(line: Timeline) -> list[int]:
    """The native frames at which an object appears while no other comes or goes within two frames."""
    edges = [round(edge * line.fps) for thing in line.of("object") for edge in (thing.start, thing.end)]
    starts = [round(thing.start * line.fps) for thing in line.of("object")]
    return [start for start in starts if start > 2 and sum(abs(edge - start) <= 2 for edge in edges) == 1]


@pytest.mark.parametrize(("container", "audio"), [("mp4", "aac"), ("mp4", "mp3"), ("webm", "opus"), ("mkv", "aac")])
def test_a_decoded_file_shows_and_sounds_when_the_events_say(tmp_path: Path, container: str, audio: str) -> None:
    line = next(
        line for line in (plan(21, index) for index in range(5000))
        if line.container == container and line.track and line.track.codec == audio and line.track.snr > 15
        and line.track.noise in ("white", "pink")  # a steady floor: brown noise swells by itself
        and line.regime == "balanced" and audible(line)[0].start > 0.5 and lone_starts(line)
        and audible(line)[0].kind == "sound"  # words begin softly
        and not line.look.grain and not line.look.drift and line.look.pan == (0, 0)
    )  # fmt: skip
    path = tmp_path / f"clip.{container}"
    encode(line, path)
    assert read_signature(path) == signature(line)
    pictures, times, sound, rate = decoded(path)
    assert len(pictures) == line.frames
    assert np.allclose(times, np.arange(line.frames) / line.fps, atol=0.0011)
    for start in lone_starts(line):
        steps = [np.abs(pictures[i].astype(int) - pictures[i - 1]).mean() for i in range(start - 1, start + 2)]
        assert steps[1] > 2 * steps[0] and steps[1] > 2 * steps[2], (start, steps)
    first = audible(line)[0]
    levels = np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(sound, len(sound) // (rate // 100))])
    floor = levels[: int((first.start - 0.03) * 100)].mean()
    loud = np.flatnonzero(levels > 3 * floor)[0] / 100
    assert abs(loud - first.start) < 0.05, (loud, first)


def decoded(path: Path) -> tuple[list[np.ndarray], list[float], np.ndarray, int]:
    """Pictures, their times in s, mono samples, their rate in Hz."""
    pictures, times, chunks, rate = [], [], [], 0
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            pictures.append(picture.to_ndarray(format="rgb24"))
            times.append(float(picture.time))
    with av.open(str(path)) as container:
        for chunk in container.decode(audio=0):
            chunks.append(chunk.to_ndarray().astype(np.float32).mean(0))
            rate = chunk.sample_rate
            assert chunk.format.is_planar, "a packed format needs its channels taken apart first"
    return pictures, times, np.concatenate(chunks), rate


def test_a_data_set_can_be_resumed_and_is_the_same_when_made_again(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = generate(tmp_path / "a", 3, seed=2, on_progress=lambda done, total: seen.append((done, total)))
    assert target == tmp_path / "a" / "questions.jsonl" and seen == [(1, 3), (2, 3), (3, 3)]
    text = target.read_text(encoding="utf-8")
    clips = sorted((tmp_path / "a" / "clips").iterdir())
    whole = {clip.name: clip.read_bytes() for clip in clips}
    kept = clips[0].stat().st_mtime_ns
    clips[2].unlink()
    clips[2].with_name(clips[2].name + ".part").write_bytes(b"cut short")
    target.unlink()
    assert generate(tmp_path / "a", 3, seed=2).read_text(encoding="utf-8") == text
    assert clips[0].stat().st_mtime_ns == kept
    assert {clip.name: clip.read_bytes() for clip in (tmp_path / "a" / "clips").iterdir()} == whole


def test_questions_that_are_not_the_first_of_the_new_ones_are_overwritten_only_by_force(tmp_path: Path) -> None:
    first = generate(tmp_path, 1, seed=2).read_text(encoding="utf-8")
    target = generate(tmp_path, 2, seed=2)
    assert target.read_text(encoding="utf-8").startswith(first)  # more of the same is no loss
    for old in (target.read_text(encoding="utf-8"), "mine\n"):
        target.write_text(old, encoding="utf-8")
        with pytest.raises(OptionError, match="holds other questions"):
            generate(tmp_path, 1, seed=2)
        assert target.read_text(encoding="utf-8") == old
    assert generate(tmp_path, 1, seed=2, force=True).read_text(encoding="utf-8") == first


def test_question_rows_have_exactly_the_documented_keys(tmp_path: Path) -> None:
    target = generate(tmp_path, 2, seed=6, questions_per_clip=2)
    rows = [json.loads(row) for row in target.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4 and len({row["id"] for row in rows}) == 4
    for row in rows:
        assert set(row) == {"id", "media", "question", "answer", "kind", "regime", "options", "events"}
        assert (target.parent / row["media"]).is_file() and row["answer"] in row["options"]
        assert all(set(event) == {"what", "start", "end", "corner"} for event in row["events"])
    assert Path(rows[0]["media"]).stem == "000001" and Path(rows[-1]["media"]).stem == "000002"


def test_invalid_arguments_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in ((tmp_path, 0, 1, 3), (tmp_path, 1, -1, 3), (tmp_path, 1, 1, 0), (tmp_path / "file", 1, 1, 3)):
        with pytest.raises(OptionError):
            generate(*arguments)
    container = plan(1, 0).container
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / f"000001.{container}").write_bytes(b"another seed's clip")
    with pytest.raises(OptionError, match="another clip"):
        generate(tmp_path, 1, 1)
    generate(tmp_path, 1, 1, force=True)
    assert (tmp_path / "clips" / f"000001.{container}").stat().st_size > 1000
