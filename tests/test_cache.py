"""What is kept of clips: found by content, the same answers, bounded, and safe among processes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels.batch import opening
from echoingpixels.cache import ENDING, FeatureCache, Seen, default_folder, seen_key
from echoingpixels.fingerprint import WHOLE, file_mark, folder_mark
from echoingpixels.loading import KNOWN
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import LoadOptions, MediaOptions
from echoingpixels.weights import weights_of
from tests import tinymodel
from tests.batches import Near, answer, job, rows, tasks
from tests.program import Program

QUESTION = "Which object appears first?"
SHORT = ("--max-new-tokens", "3")


@pytest.fixture
def seen() -> Seen:
    model = tinymodel.model()
    looked = model.look(tinymodel.clip())
    masks = {"seen": torch.arange(len(looked.features.video)) < 7, "heard": None}
    return Seen(looked.media, replace(looked.features, **masks), tinymodel.clip().source, 3.0)


def test_what_is_kept_comes_back_as_it_was(seen: Seen, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.get("ab" * 32, "clip.mp4") is None
    cache.put("ab" * 32, seen)
    back = cache.get("ab" * 32, "clip.mp4")
    assert back is not None and back.duration == seen.duration and back.media.span == seen.media.span
    for one, other in ((back.features.video, seen.features.video), (back.features.audio, seen.features.audio)):
        assert one is not None and other is not None and torch.equal(one, other)
    assert back.source == replace(seen.source, path="clip.mp4")
    backbone = tinymodel.backbone()
    assert back.features.heard is None and torch.equal(back.features.seen, seen.features.seen)
    assert backbone.tower_flops(back.media) == backbone.tower_flops(seen.media)


@pytest.mark.parametrize("damage", [b"", b"nothing", None])
def test_a_damaged_entry_is_none_and_goes(damage: bytes | None, seen: Seen, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("ab" * 32, seen)
    ((file, _, _),) = cache.entries()
    file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    assert cache.get("ab" * 32, "clip.mp4") is None and cache.entries() == []


def test_the_least_recently_used_go_first(seen: Seen, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    keys = [f"{i:02}" * 32 for i in range(5)]
    for age, key in enumerate(keys):
        cache.put(key, seen)
        os.utime(cache._file(key), (1000 + age, 1000 + age))
    assert cache.get(keys[0], "clip.mp4") is not None  # used just now
    size = cache.entries()[0][1]
    small = FeatureCache(tmp_path, limit=3 * size)
    small.put("ff" * 32, seen)
    left = {file.stem for file, _, _ in small.entries()}
    assert left == {keys[4], keys[0], "ff" * 32}


def test_many_at_once_neither_fail_nor_leave_anything_half_written(seen: Seen, tmp_path: Path) -> None:
    def work(i: int) -> bool:
        cache = FeatureCache(tmp_path, limit=100_000)
        key = f"{i % 3:02}" * 32
        cache.put(key, seen)
        back = cache.get(key, "clip.mp4")
        return back is None or torch.equal(back.features.video, seen.features.video)  # type: ignore[arg-type]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} <= {ENDING}


def test_where_nothing_can_be_written_nothing_is_kept(seen: Seen, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file")
    cache.put("ab" * 32, seen)
    assert cache.get("ab" * 32, "clip.mp4") is None and cache.entries() == []


def test_the_key_is_of_everything_features_depend_on(film: Path, tmp_path: Path) -> None:
    read = MediaOptions()
    changes = (replace(read, fps=1), replace(read, max_frames=7), replace(read, start=1.0), replace(read, audio=False))
    keys = [seen_key("mark", "towers", one) for one in (read, *changes)]
    keys += [seen_key("other", "towers", read), seen_key("mark", "other", read)]
    assert len(set(keys)) == len(keys)
    copy = tmp_path / "copy.mp4"
    shutil.copy(film, copy)
    assert file_mark(copy) == file_mark(film)
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    assert file_mark(copy) != file_mark(film)


@pytest.mark.parametrize("place", [0, WHOLE // 2, WHOLE + 99])
def test_a_large_file_is_told_by_blocks_across_it(place: int, tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = bytearray(WHOLE + 100)
    path.write_bytes(data)
    before = file_mark(path)
    data[place] = 1
    path.write_bytes(data)
    assert file_mark(path) != before


def test_other_weights_of_the_same_name_are_others(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(KNOWN["tiny"], folder)
    before, options = weights_of(str(folder), LoadOptions()), LoadOptions()
    assert before.model == weights_of("tiny", options).model and before.towers == weights_of("tiny", options).towers
    sieve = folder / "sieve" / "sieve.safetensors"
    sieve.write_bytes(sieve.read_bytes()[:-1] + b"x")
    changed = weights_of(str(folder), options)
    assert changed.sieve != before.sieve and changed.towers == before.towers
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert weights_of(str(folder), options).towers != before.towers
    assert weights_of("tiny", LoadOptions(max_pixels=56 * 56)).towers != before.towers
    ways = [weights_of("tiny", LoadOptions(encode=how)).towers for how in ("plain", "repeats:0.1", "repeats:0.2")]
    assert len(set(ways)) == 3 and weights_of("tiny", LoadOptions(encode="repeats")).towers == ways[1]
    assert weights_of("tiny", LoadOptions()).encode == "repeats:0.1"  # its own
    assert folder_mark(folder) != before.model


def test_the_folder_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "echoingpixels" / "features"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):  # which the specification says to ignore
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_folder() == tmp_path / ".cache" / "echoingpixels" / "features"


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The clips that a batch reads, in this process."""
    read: list[str] = []

    class Spy(Near):
        def stream(self, path: Any, options: Any) -> Any:
            read.append(Path(path).name)
            return super().stream(path, options)

    monkeypatch.setattr(opening, "Worker", Spy)
    yield read


def test_a_batch_reads_no_clip_twice_whatever_is_asked(film: Path, near: list[str], tmp_path: Path) -> None:
    model: EchoingPixels = tinymodel.model()
    chosen = job(model, cache=tmp_path / "cache")
    answer(model, chosen, tasks(film, questions=("Who?",)), tmp_path / "first.jsonl")
    answer(model, chosen, tasks(film), tmp_path / "cached.jsonl")
    assert near == [film.name]
    answer(model, replace(chosen, cache=None), tasks(film), tmp_path / "plain.jsonl")
    cached, plain = (rows(tmp_path / f"{name}.jsonl") for name in ("cached", "plain"))
    assert [row["cached"] for row in cached] == [True] * 3 and not any(row["cached"] for row in plain)
    for one, other in zip(cached, plain, strict=True):
        told = {"time_s": 0, "tokens_per_s": 0, "cached": 0}
        assert {**one, **told} == {**other, **told}
        assert one["time_s"]["encode"] == 0


def test_a_second_question_of_ask_starts_at_the_sieve(
    film: Path, ep: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--cache-dir", tmp_path, "--json", *SHORT)
    first = json.loads(ep("ask", film, QUESTION, *where).out)
    with monkeypatch.context() as patch:
        patch.setattr("echoingpixels.media.Worker.stream", lambda *_, **__: pytest.fail("decoded"))
        second = json.loads(ep("ask", film, QUESTION, *where).out)
    assert second["answer"] == first["answer"] and second["tokens"] == first["tokens"]
    assert second["flops"] == first["flops"]
    assert second["time_s"]["encode"] is None and first["time_s"]["encode"] > 0
    again = json.loads(ep("ask", film, QUESTION, *where, "--no-cache").out)
    assert again["answer"] == first["answer"] and again["time_s"]["encode"] > 0
    compared = json.loads(ep("ask", film, QUESTION, *where, "--compare").out)
    assert compared["time_s"]["encode"] > 0
    shown = ep("cache", "--cache-dir", tmp_path)
    assert shown.code == 0 and ": 1 clips, " in shown.out
    cleared = json.loads(ep("cache", "--cache-dir", tmp_path, "--clear", "--json").out)
    assert (cleared["clips"], cleared["bytes"]) == (0, 0)


def test_reading_the_cache_gives_what_reading_the_clip_gives(film: Path, tmp_path: Path) -> None:
    model = tinymodel.model()
    clip = read_clip(film, frame_size=model.frame_size)
    looked = model.look(clip)
    cache = FeatureCache(tmp_path)
    cache.put("ab" * 32, Seen(looked.media, looked.features, clip.source, clip.duration))
    back = cache.get("ab" * 32, str(film))
    assert back is not None and back.source == clip.source and back.duration == clip.duration
