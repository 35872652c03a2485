"""The feature cache: keyed by content, with the same answers, bounded, and safe among processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from echoingpixels import model as under_test
from echoingpixels.batch import opening
from echoingpixels.checkpoints import fingerprint
from echoingpixels.checkpoints.fingerprint import WHOLE, features_mark, file_mark, folder_mark
from echoingpixels.checkpoints.loading import KNOWN, weights_of
from echoingpixels.errors import InternalError, ModelError
from echoingpixels.features.cache import CLIP, ENDING, FORMAT, CachedClip, FeatureCache, default_folder, feature_key
from echoingpixels.from_pretrained import load
from echoingpixels.generation.answer import Chunk
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.media import read_clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions, MediaOptions
from echoingpixels.options.encoder_keep import EncoderKeep
from echoingpixels.storage.folders import UNFINISHED, filling, write_text_atomically
from tests.support import tinymodel
from tests.support.batches import Near, answer, job, rows, tasks
from tests.support.program import Program

ENCODERS = ("visual", "audio_tower")
QUESTION = "Which object appears first?"
SHORT = ("--max-new-tokens", "3")


@pytest.fixture
def entry() -> CachedClip:
    clip = tinymodel.model().encode(tinymodel.clip())
    assert clip.features.video is not None
    features = replace(clip.features, new_video=torch.arange(len(clip.features.video)) < 7)
    return CachedClip(clip.media, features, clip.source, clip.duration)


def test_an_entry_comes_back_as_it_was_written(entry: CachedClip, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.get("ab" * 32, "clip.mp4") is None
    cache.put("ab" * 32, entry)
    back = cache.get("ab" * 32, "clip.mp4")
    assert back is not None and back.duration == entry.duration and back.media.span == entry.media.span
    for name in ("video", "audio", "video_saliency", "audio_saliency"):
        assert torch.equal(getattr(back.features, name), getattr(entry.features, name))
    assert back.source == replace(entry.source, path="clip.mp4")
    backbone = tinymodel.backbone()
    assert back.features.new_audio is None and torch.equal(back.features.new_video, entry.features.new_video)
    assert backbone.encoder_flops(back.media) == backbone.encoder_flops(entry.media)


@pytest.mark.parametrize("damage", [b"", b"nothing", None])
def test_a_damaged_entry_is_none_and_is_deleted(damage: bytes | None, entry: CachedClip, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("ab" * 32, entry)
    ((file, _, _),) = cache.entries()
    file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    assert cache.get("ab" * 32, "clip.mp4") is None and cache.entries() == []


def test_the_least_recently_used_go_first(entry: CachedClip, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    keys = [f"{i:02}" * 32 for i in range(5)]
    for age, key in enumerate(keys):
        cache.put(key, entry)
        os.utime(cache._file(key), (1000 + age, 1000 + age))
    assert cache.get(keys[0], "clip.mp4") is not None  # used just now
    size = cache.entries()[0][1]
    small = FeatureCache(tmp_path, limit=3 * size)
    small.put("ff" * 32, entry)
    left = {file.stem for file, _, _ in small.entries()}
    assert left == {keys[4], keys[0], "ff" * 32}


def test_concurrent_writers_neither_fail_nor_leave_partial_entries(entry: CachedClip, tmp_path: Path) -> None:
    def work(i: int) -> bool:
        cache = FeatureCache(tmp_path, limit=100_000)
        key = f"{i % 3:02}" * 32
        cache.put(key, entry)
        back = cache.get(key, "clip.mp4")
        return back is None or torch.equal(back.features.video, entry.features.video)  # type: ignore[arg-type]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} <= {ENDING}


def test_a_folder_that_cannot_be_written_has_no_entries(entry: CachedClip, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file")
    cache.put("ab" * 32, entry)
    assert cache.get("ab" * 32, "clip.mp4") is None and cache.entries() == []


def test_the_key_is_of_everything_features_depend_on(film: Path, tmp_path: Path) -> None:
    read = MediaOptions()
    changes = (replace(read, fps=1), replace(read, max_frames=7), replace(read, start=1.0), replace(read, audio=False))
    keys = [feature_key("mark", "encoders", one) for one in (read, *changes)]
    keys += [feature_key("other", "encoders", read), feature_key("mark", "other", read)]
    assert len(set(keys)) == len(keys)
    copy = tmp_path / "copy.mp4"
    shutil.copy(film, copy)
    assert file_mark(copy) == file_mark(film)
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    assert file_mark(copy) != file_mark(film)


@pytest.mark.parametrize("place", [0, WHOLE // 2, WHOLE + 99])
def test_a_large_file_is_marked_by_blocks_across_it(place: int, tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = bytearray(WHOLE + 100)
    path.write_bytes(data)
    before = file_mark(path)
    data[place] = 1
    path.write_bytes(data)
    assert file_mark(path) != before


def test_an_edit_between_samples_is_another_clip_to_the_cache_and_the_same_one_to_a_journal(
    tmp_path: Path,
) -> None:
    path, copy = tmp_path / "large.wav", tmp_path / "copy.wav"
    path.write_bytes(bytes(2 * WHOLE))
    mark = file_mark(path)
    before = features_mark(path, mark)
    shutil.copy2(path, copy)
    assert features_mark(copy, file_mark(copy)) == before
    with path.open("r+b") as file:
        file.seek(fingerprint.BLOCK + 10)  # between the first sample and the second
        file.write(b"silence")
    assert path.stat().st_size == 2 * WHOLE and file_mark(path) == mark and features_mark(path, mark) != before


def test_a_small_clip_is_known_by_its_content_alone(film: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    shutil.copy(film, copy)
    os.utime(copy, (1, 1))
    assert features_mark(copy, file_mark(copy)) == features_mark(film, file_mark(film)) == file_mark(film)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The bundled model's folder, to be changed."""
    return Path(shutil.copytree(KNOWN["tiny"], tmp_path / "copy"))


def test_other_weights_of_the_same_name_are_others(copy: Path) -> None:
    options = LoadOptions()
    before = weights_of(str(copy), options)
    assert before == weights_of("tiny", options)
    sieve = copy / "sieve" / "sieve.safetensors"
    sieve.write_bytes(sieve.read_bytes()[:-1] + b"x")
    changed = weights_of(str(copy), options)
    assert changed.sieve != before.sieve and changed.encoders == before.encoders
    assert weights_of("tiny", LoadOptions(max_pixels=56 * 56)).encoders != before.encoders
    marks = [weights_of("tiny", LoadOptions(reuse=threshold)).encoders for threshold in (None, 0.1, 0.2)]
    assert len(set(marks)) == 3 and before.encoders == marks[1]
    assert before.reuse == 0.1  # its own
    thin = weights_of("tiny", LoadOptions(encoder_keep=EncoderKeep((0.3,))))
    assert (before.encoder_keep, thin.encoder_keep) == (None, EncoderKeep((0.3,))) and thin.encoders not in marks
    assert folder_mark(copy) == before.model


def test_a_model_may_have_an_encoder_keep_of_its_own(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "encoder_keep": "0.4@2"}))
    assert weights_of(str(copy), LoadOptions()).encoder_keep == EncoderKeep((0.4,), (2,))
    assert weights_of(str(copy), LoadOptions(encoder_keep=None)).encoder_keep is None
    found = {keep: weights_of("tiny", LoadOptions(keep=keep)).encoder_keep for keep in (None, 1.0, 0.2, 0.1)}
    assert found == {None: None, 1.0: None, 0.2: None, 0.1: EncoderKeep((0.5,))}


@pytest.mark.parametrize("header", [True, False])
def test_a_changed_weight_file_of_the_same_size_is_another_model(header: bool, copy: Path) -> None:
    before, file = weights_of(str(copy), LoadOptions()), copy / "model.safetensors"
    about, data = file.stat(), bytearray(file.read_bytes())
    data[200 if header else -1] ^= 1
    file.write_bytes(data)
    times = (about.st_mtime_ns, about.st_mtime_ns + (0 if header else 1))
    os.utime(file, ns=times)
    after = weights_of(str(copy), LoadOptions())
    assert file.stat().st_size == about.st_size
    assert after.model != before.model and after.encoders != before.encoders


def test_quantization_tokenizer_and_decoder_do_not_change_the_key_of_features(copy: Path) -> None:
    before = weights_of(str(copy), LoadOptions())
    assert weights_of(str(copy), LoadOptions(quant="nf4", sieve="fused")).encoders == before.encoders
    os.utime(copy / "tokenizer.json", (1, 1))
    _shard(copy)
    sharded = weights_of(str(copy), LoadOptions())
    os.utime(copy / "decoder.safetensors", (1, 1))
    assert sharded.model != before.model
    after = weights_of(str(copy), LoadOptions())
    assert after.model != sharded.model and after.encoders == sharded.encoders


def _shard(folder: Path) -> None:
    """Put the encoders' weights and the others into two files."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"{'encoders' if name.startswith(ENCODERS) else 'decoder'}.safetensors" for name in weights}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_features_of_a_quantized_model_are_those_of_the_unquantized_one(tiny_model: EchoingPixels) -> None:
    media = tinymodel.clip(2.0)
    whole, small = (one.encode(media).features for one in (tiny_model, load("tiny", quant="nf4", device="cpu")))
    assert torch.equal(whole.video, small.video) and torch.equal(whole.audio, small.audio)  # type: ignore[arg-type]


def test_a_mark_reads_no_weights(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    class Counted(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    plain = Path.open

    def spy(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return Counted(path) if path.suffix == ".safetensors" else plain(path, mode, *args, **options)

    with (copy / "model.safetensors").open("r+b") as file:
        file.truncate(22 << 30)  # sparse: only its size is that of a 7B model
    monkeypatch.setattr(Path, "open", spy)
    weights_of(str(copy), LoadOptions())
    assert 0 < read < 100_000


def test_a_folder_without_weights_is_one_line(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="could not be loaded"):
        weights_of(str(copy), LoadOptions())


def test_the_encoders_input_is_that_of_this_format() -> None:
    """Where this fails because clips are prepared in another way, raise FORMAT and renew the figures."""
    media = prepare_media(tinymodel.clip(), tinymodel.RESOLUTION)
    assert media.patches is not None and media.mel is not None
    figures = [float(part.double().abs().mean()) for part in (media.patches, media.mel)]
    assert (FORMAT, media.grid, tuple(media.mel.shape)) == (4, (3, 4, 6), (128, 300))
    assert figures == pytest.approx([0.94937, 0.59751], rel=1e-3)


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "sieve.json"
    write_text_atomically(path, "old")
    with pytest.raises(OSError, match="full"), filling(tmp_path) as made:
        (made / "sieve.json").write_text("ne")
        raise OSError("full")
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["sieve.json"]
    write_text_atomically(path, "new")
    (tmp_path / "plain").touch()
    assert path.read_text() == "new" and path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_holds_files_is_replaced(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with filling(tmp_path) as made:
            (made / "model").mkdir()
            (made / "model" / text).write_text(text)
    assert [one.name for one in tmp_path.rglob("*")] == ["model", "new"]


def test_unfinished_files_of_a_killed_process_are_deleted_after_an_hour(entry: CachedClip, tmp_path: Path) -> None:
    for name, age in (("old", 2 * 3600), ("young", 60)):
        left = tmp_path / "ab" / f".{name}{UNFINISHED}"
        left.mkdir(parents=True)
        (left / "part").touch()
        os.utime(left, (time.time() - age,) * 2)
    FeatureCache(tmp_path).put("ab" * 32, entry)
    assert sorted(path.name for path in (tmp_path / "ab").iterdir()) == [f".young{UNFINISHED}", "ab" * 32 + ENDING]


def test_keys_of_one_clip_begin_alike_so_that_clips_can_be_counted(entry: CachedClip, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    keys = [feature_key(mark, "encoders", MediaOptions(fps=fps)) for mark, fps in (("a", 1), ("a", 2), ("b", 1))]
    assert keys[0][:CLIP] == keys[1][:CLIP] != keys[2][:CLIP]
    for key in keys:
        cache.put(key, entry)
    assert (len(cache.entries()), cache.clips()) == (3, 2)


def test_the_folder_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "echoingpixels" / "features"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):  # which the specification says to ignore
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_folder() == tmp_path / ".cache" / "echoingpixels" / "features"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ends of generation and the writes to the cache, in order."""
    order: list[str] = []
    put, generate = FeatureCache.put, under_test.generate

    def generating(*given: Any) -> Iterator[Chunk]:
        yield from generate(*given)
        order.append("generated")

    monkeypatch.setattr(under_test, "generate", generating)
    monkeypatch.setattr(FeatureCache, "put", lambda *given: (order.append("put"), put(*given)))
    return order


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The clips that a batch reads, in this process."""
    read: list[str] = []

    class Spy(Near):
        def stream(self, path: Any, options: Any, **more: Any) -> Any:
            read.append(Path(path).name)
            return super().stream(path, options, **more)

    monkeypatch.setattr(opening, "Worker", Spy)
    yield read


def test_a_batch_reads_no_clip_twice_for_any_question(film: Path, near: list[str], tmp_path: Path) -> None:
    model: EchoingPixels = tinymodel.model()
    chosen = job(model, cache=tmp_path / "cache")
    answer(model, chosen, tasks(film, questions=("Who?",)), tmp_path / "first.jsonl")
    answer(model, chosen, tasks(film), tmp_path / "cached.jsonl")
    assert near == [film.name]
    answer(model, replace(chosen, cache=None), tasks(film), tmp_path / "plain.jsonl")
    cached, plain = (rows(tmp_path / f"{name}.jsonl") for name in ("cached", "plain"))
    assert [row["cached"] for row in cached] == [True] * 3 and not any(row["cached"] for row in plain)
    for one, other in zip(cached, plain, strict=True):
        differ = {"time_s": 0, "tokens_per_s": 0, "cached": 0}
        assert {**one, **differ} == {**other, **differ}
        assert one["time_s"]["encode"] == 0


def test_a_batch_writes_features_once_after_the_answers(
    film: Path, near: list[str], tmp_path: Path, events: list[str]
) -> None:
    answer(tinymodel.model(), job(tinymodel.model(), cache=tmp_path / "cache"), tasks(film), tmp_path / "rows.jsonl")
    assert events == ["generated", "put"] and FeatureCache(tmp_path / "cache").clips() == 1


def test_a_clip_that_was_only_touched_is_not_answered_twice(film: Path, near: list[str], tmp_path: Path) -> None:
    clip, model = tmp_path / "clip.mp4", tinymodel.model()
    shutil.copy(film, clip)
    answer(model, job(model), tasks(clip), tmp_path / "rows.jsonl")
    os.utime(clip, (1, 1))
    assert answer(model, job(model), tasks(clip), tmp_path / "rows.jsonl", resume=True).skipped == 3


def test_a_second_question_of_ask_starts_at_the_selection(
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
    assert shown.code == 0 and f"{tmp_path / 'features'}: 1 clip in 1 entry, " in shown.out
    ep("ask", film, QUESTION, *where, "--fps", "1")
    assert ": 1 clip in 2 entries, " in ep("cache", "--cache-dir", tmp_path).out
    cleared = json.loads(ep("cache", "--cache-dir", tmp_path, "--clear", "--json").out)
    assert (cleared["clips"], cleared["entries"], cleared["bytes"]) == (0, 0, 0)


def test_a_quantized_model_uses_the_features_of_the_unquantized_one(
    tiny_model: EchoingPixels, film: Path, tmp_path: Path
) -> None:
    first = tiny_model.encode(film, cache=tmp_path)
    first.store()
    second = load("tiny", device="cpu", quant="nf4").encode(film, cache=tmp_path)
    assert not first.cached and first.time_s.encode is not None
    assert second.cached and second.time_s.encode is None and second.ask(QUESTION, max_new_tokens=3).token_ids


@pytest.fixture
def marked() -> EchoingPixels:
    """The random model, with a mark for its encoders: it uses the feature cache."""
    plain = tinymodel.model()
    return EchoingPixels(plain.backbone, plain.sieve, encoders="random")


def test_features_are_written_after_the_first_answer(
    marked: EchoingPixels, film: Path, tmp_path: Path, events: list[str]
) -> None:
    clip = marked.encode(film, cache=tmp_path)
    assert events == []
    for question in (QUESTION, "Who?"):
        clip.ask(question, max_new_tokens=2)
    assert events[:3] == ["generated", "put", "generated"] and FeatureCache(tmp_path).clips() == 1
    assert marked.encode(film, cache=tmp_path).cached


@pytest.mark.parametrize("failing", ["generate", "reducer_named", "pad"])
def test_features_are_written_after_an_answer_that_fails_too(
    failing: str, marked: EchoingPixels, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise InternalError("Memory ran out.")

    clip = marked.encode(film, cache=FeatureCache(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(under_test, failing, broken)
        with pytest.raises(InternalError):
            marked.answer([(clip, QUESTION), (clip, "Who?")], AskOptions("cs2", 0.2))
    assert FeatureCache(tmp_path).clips() == 1


def test_an_answer_abandoned_midway_writes_the_features(marked: EchoingPixels, film: Path, tmp_path: Path) -> None:
    chunks = marked.encode(film, cache=tmp_path).stream(QUESTION, AskOptions(generate=GenerateOptions(20)))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert FeatureCache(tmp_path).clips() == 1


def test_a_cached_clip_has_the_facts_of_the_clip_read(film: Path, tmp_path: Path) -> None:
    model = tinymodel.model()
    clip = read_clip(film, frame_size=model.frame_size)
    encoded = model.encode(clip)
    cache = FeatureCache(tmp_path)
    cache.put("ab" * 32, CachedClip(encoded.media, encoded.features, clip.source, clip.duration))
    back = cache.get("ab" * 32, str(film))
    assert back is not None and back.source == clip.source and back.duration == clip.duration
