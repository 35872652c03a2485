"""Long clips: in pieces the same results as whole, in memory that does not hold them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echoingpixels.backbones import qwen_omni
from echoingpixels.batch import opening
from echoingpixels.display.pictures import MOST_PIXELS, shown_size
from echoingpixels.errors import MediaError
from echoingpixels.explain import explanation
from echoingpixels.features import encode as encoding
from echoingpixels.inputs import mel
from echoingpixels.inputs.mel import Mel, log_mel, mel_frames
from echoingpixels.inputs.positions import overreach
from echoingpixels.inputs.prepare import extent_of, prepare_media
from echoingpixels.media import Limits, Worker, decode, read_clip, stream_clip
from echoingpixels.media import clip as pieces_of
from echoingpixels.media.clip import NO_AUDIO, Clip, Piece, Pieces, whole
from echoingpixels.media.sampler import Overrun, Sampler
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions, MediaOptions
from echoingpixels.planning import plan
from echoingpixels.reducers import chunked_scoring as windows
from tests.support import tinymodel
from tests.support.batches import Near, answer, job, rows, tasks
from tests.support.clips import Film, Track, beep, write
from tests.support.program import GIVEN_BACK, environment

SHORT = GenerateOptions(max_new_tokens=4)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of four frames or so, encoders that take two or three steps at once, mel blocks of half a second."""
    for place in (pieces_of, decode):
        monkeypatch.setattr(place, "PIECE", 80_000)
    monkeypatch.setattr(qwen_omni, "PATCHES_AT_ONCE", 50)
    monkeypatch.setattr(qwen_omni, "MEL_CHUNKS_AT_ONCE", 1)
    monkeypatch.setattr(mel, "BLOCK", 50)


def cut(clip: Clip, seed: int) -> Pieces:
    """A clip in pieces of random lengths, after a beginning that comes to nothing."""
    random = np.random.default_rng(seed)
    audio = NO_AUDIO if clip.audio is None else clip.audio
    yield Piece(clip.frames[:3], clip.times[:3], audio[:999], begins=True)
    f = s = 0
    begins = True
    while f < len(clip.frames) or s < len(audio):
        n, m = int(random.integers(0, 6)), int(random.integers(0, 30_000))
        yield Piece(clip.frames[f : f + n], clip.times[f : f + n], audio[s : s + m], begins)
        f, s, begins = f + n, s + m, False
    (last,) = clip.pieces()
    yield Piece(clip.frames[:0], clip.times[:0], NO_AUDIO, begins, last.ending)


def clips() -> Iterator[Clip]:
    """Odd and even counts of frames, uneven times, sound that is longer, shorter, or not there; sound alone."""
    for seconds in (9.0, 9.5):
        yield tinymodel.clip(seconds)
    yield tinymodel.clip(7.5, sound=False)
    full = tinymodel.clip(8.0)
    assert full.audio is not None
    yield replace(full, times=np.sort(np.random.default_rng(1).uniform(0, 8, len(full.times))))
    yield replace(full, audio=full.audio[:35_200])
    yield replace(full, audio=np.concatenate([full.audio, full.audio[:50_001]]))
    yield replace(full, frames=full.frames[:0], times=full.times[:0])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("ahead", [False, True])
def test_in_pieces_the_encoders_give_the_features_of_the_whole(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if ahead:  # as beside a GPU
        monkeypatch.setattr(encoding, "_cutter", lambda device: ThreadPoolExecutor(1))
    model = tinymodel.model()
    on = model.backbone
    for seed, clip in enumerate(clips()):
        media = prepare_media(clip, on.resolution)
        with torch.no_grad():
            features = tinymodel.encode(on, media)
        encoded = model.encode(cut(clip, seed))
        assert encoded.media.span == media.span and encoded.media.grid == media.grid
        assert (encoded.ending.duration, encoded.ending.source) == (clip.duration, clip.source)
        for one, other in ((encoded.features.video, features.video), (encoded.features.audio, features.audio)):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)  # type: ignore[arg-type]
        assert on.encoder_flops(encoded.media) == on.encoder_flops(media)
        stream = model.embed(encoded.prompt("Who?"))
        plain = tinymodel.embed(on, replace(model.prepare(media, "Who?"), media=(media,)))
        assert torch.equal(stream.embeds, plain.embeds) and torch.equal(stream.positions, plain.positions)


@pytest.mark.usefixtures("small")
def test_an_answer_from_pieces_is_the_answer_from_the_clip() -> None:
    model, clip = tinymodel.model(), tinymodel.clip(9.5)
    in_pieces = model.ask(cut(clip, 5), "Who?", keep=0.2, generate=SHORT)
    at_once = model.ask(clip, "Who?", keep=0.2, generate=SHORT)
    assert (in_pieces.text, in_pieces.kept_times) == (at_once.text, at_once.kept_times)
    assert in_pieces.report.tokens == at_once.report.tokens


def test_pieces_that_were_read_before_are_an_error() -> None:
    model, pieces = tinymodel.model(), tinymodel.clip(2.0).pieces()
    model.ask(pieces, "Who?", generate=GenerateOptions(max_new_tokens=2))
    for again in (lambda: model.ask(pieces, "Who?"), lambda: whole(pieces)):
        with pytest.raises(MediaError, match="can be read once"):
            again()


def test_a_silent_track_is_left_out_however_it_comes() -> None:
    clip = tinymodel.clip(4.0)
    silent = replace(clip, source=replace(clip.source, silent=True))
    encoded = tinymodel.model().encode(cut(silent, 1))
    assert encoded.features.audio is None and encoded.media.span.audio_tokens == 0
    assert whole(cut(silent, 1)).audio is None


@settings(max_examples=50, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 9_000), min_size=1, max_size=12),
    block=st.integers(1, 80),
    step=st.integers(1, 90),
    loudest=st.floats(0, 1),
)
@example(pieces=[1], block=50, step=37, loudest=0.5)
@example(pieces=[161], block=50, step=37, loudest=0.5)
@example(pieces=[4_000, 3_999], block=50, step=37, loudest=0.5)
@example(pieces=[8_000], block=50, step=37, loudest=0.5)
@example(pieces=[8_000] * 25, block=50, step=37, loudest=0.9)
def test_log_mel_is_the_same_for_audio_in_any_pieces(pieces: list[int], block: int, step: int, loudest: float) -> None:
    samples = sum(pieces)
    audio = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    audio[int(samples * loudest) :] *= 30  # what is too quiet is known late
    at_once = log_mel(audio)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mel, "BLOCK", block)
        by_blocks = Mel()
        for end, size in zip(np.cumsum(pieces), pieces, strict=True):
            by_blocks.add(audio[end - size : end])
        m = mel_frames(samples)
        parts = by_blocks.parts([(i, min(i + step, m)) for i in range(0, m, step)])
        torch.testing.assert_close(torch.cat(list(parts), dim=1), at_once, rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 s with sound."""
    track = Track(beep(40, 30.0))
    return write(tmp_path_factory.mktemp("long") / "long.mp4", Film(seconds=40, fps=10, tracks=(track,)))


@pytest.mark.parametrize("options", [MediaOptions(max_frames=100), MediaOptions(max_frames=7), MediaOptions(start=11)])
def test_a_film_comes_in_pieces_and_they_make_the_clip(
    long_film: Path, options: MediaOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = read_clip(long_film, options)
    monkeypatch.setattr(decode, "PIECE", 150_000)
    came = list(stream_clip(long_film, options))
    assert len(came) > 3 and came[0].begins and not any(piece.begins for piece in came[1:])
    assert max(piece.frames.nbytes + piece.audio.nbytes for piece in came) < 400_000
    made = whole(piece for piece in came)
    assert np.array_equal(made.frames, there.frames) and np.array_equal(made.times, there.times)
    assert made.audio is not None and there.audio is not None and np.array_equal(made.audio, there.audio)
    assert (made.duration, made.source) == (there.duration, there.source)


def test_a_film_longer_than_its_header_states_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=20, fps=10))
    monkeypatch.setattr(decode, "_span", lambda *_: 6.0)
    there = read_clip(path, fps=2, max_frames=12)
    assert len(there.frames) == 12 and there.times[-1] > 15
    monkeypatch.setattr(decode, "PIECE", 50_000)
    came = list(stream_clip(path, fps=2, max_frames=12))
    assert sum(piece.begins for piece in came) == 2
    assert np.array_equal(whole(piece for piece in came).times, there.times)


def test_drained_frames_are_those_of_the_rule_or_reading_restarts() -> None:
    for seed in range(30):
        random = np.random.default_rng(seed)
        times = np.sort(random.uniform(0, 20, 100)).round(3).tolist()
        span, most = float(random.choice([10, 19.9, 20.5])), int(random.choice([3, 20, 50]))
        drained: list[float] = []
        plain, handing = (Sampler[int](2, most, span, lambda i: np.full((1, 1, 3), i, np.uint8)) for _ in range(2))
        try:
            for i, time in enumerate(times):
                plain.offer(time, i)
                handing.offer(time, i)
                drained += handing.drain()[0].tolist() if i % 3 == 0 else []
            drained += handing.finish(20.0)[0].tolist()
        except Overrun:
            assert span < 20
            continue
        assert drained == plain.finish(20.0)[0].tolist()


def test_long_sound_alone_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", Film(codec=None, tracks=(Track(beep(30, 3.0), codec="pcm_s16le"),)))
    there = read_clip(path)
    monkeypatch.setattr(decode, "PIECE", 300_000)
    came = list(stream_clip(path))
    assert len(came) > 3 and np.array_equal(whole(piece for piece in came).audio, there.audio)  # type: ignore[arg-type]


def test_a_worker_hands_over_pieces_and_reads_on_after_them(long_film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = MediaOptions(max_frames=400, fps=10)  # 141 MB in all
    with Worker(Limits(bytes=400 << 20)) as worker:
        sizes = [piece.frames.nbytes for piece in worker.stream(long_film, options, frame_size=lambda *_: (280, 420))]
        assert sum(sizes) == 400 * 280 * 420 * 3 and max(sizes) < 20 << 20
        first = worker.pid
        assert len(worker.read(long_film, MediaOptions(max_frames=4)).frames) == 4 and worker.pid == first
        left = worker.stream(long_film, options, frame_size=lambda *_: (280, 420))
        next(left)
        left.close()
        assert worker.pid is None  # it waited for us in the middle of a file
        assert len(worker.read(long_film, MediaOptions(max_frames=4)).frames) == 4


def test_a_crash_between_pieces_is_an_error(long_film: Path) -> None:
    options = MediaOptions(max_frames=400, fps=10)
    with Worker() as worker:
        pieces = worker.stream(long_film, options, frame_size=lambda *_: (280, 420))
        next(pieces)
        assert worker._process is not None
        worker._process.kill()
        with pytest.raises(MediaError, match="ended the process that read it"):
            list(pieces)


def test_a_cap_on_frames_is_noted(long_film: Path) -> None:
    assert read_clip(long_film).source.notes == ()
    (note,) = read_clip(long_film, max_frames=8).source.notes
    assert (
        note.startswith("At most 8 frames are taken, one every 5 s in place of 2 a second") and "--max-frames" in note
    )


def test_positions_beyond_the_model_s_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert overreach(32_768, 32_768, 25) == ()
    (note,) = overreach(90_061, 32_768, 25)
    assert "90,061 positions" in note and "21.8 minutes" in note and "--start" in note
    model = tinymodel.model()
    assert model.ask(tinymodel.clip(), "Who?", generate=SHORT).warnings == ()
    monkeypatch.setattr(model.backbone, "max_positions", 60)
    (warning,) = model.ask(tinymodel.clip(), "Who?", generate=SHORT).warnings
    assert "made for 60, 0.0 minutes" in warning
    assert model.generate(tinymodel.asked(model, tinymodel.clip(), "Who?"), SHORT).warnings == (warning,)


def test_positions_of_an_hour_are_exact_whole_numbers() -> None:
    on = tinymodel.backbone()
    embeds = torch.zeros(1, 3, on.shape.width)
    at = torch.tensor([40_000, 90_000, 90_001]).expand(3, 1, -1)
    cos, sin = on.text.rotary_emb(embeds, at)
    assert at.dtype == torch.int64 and cos.dtype == torch.float32
    angle = at[0, 0].double() * 1.0  # the fastest pair turns by one radian a position
    assert torch.allclose(cos[0, :, 0].double(), angle.cos(), atol=1e-5)
    assert torch.allclose(sin[0, :, 0].double(), angle.sin(), atol=1e-5)


def test_a_batch_encodes_a_long_clip_while_it_is_read(
    long_film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = tinymodel.model()
    chosen = job(model)
    chosen = replace(chosen, read=replace(chosen.read, max_frames=80))
    asked = tasks(long_film, tmp_path / "none.mp4", long_film, questions=("Who?", "Which?"))
    answer(model, chosen, asked[:1], tmp_path / "whole.jsonl")
    found: list[Any] = []
    real = opening.Opener._found
    monkeypatch.setattr(opening.Opener, "_found", lambda *a: found.append(real(*a)) or found[-1])
    monkeypatch.setattr(opening, "Worker", Near)  # which reads here, in smaller pieces
    monkeypatch.setattr(decode, "PIECE", 150_000)
    tally = answer(model, chosen, asked, tmp_path / "pieces.jsonl")
    assert (tally.answered, tally.failed) == (4, 2) and found and not any(isinstance(one.clip, Clip) for one in found)
    answers = {row["question"]: row["answer"] for row in rows(tmp_path / "pieces.jsonl") if not row["error"]}
    assert answers == {row["question"]: row["answer"] for row in rows(tmp_path / "whole.jsonl")}


HOUR = """
import sys
import numpy as np
import torch
from echoingpixels.media.clip import NO_AUDIO, Ending, Piece, Source
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.report import peak_memory
from echoingpixels.inputs.patches import Resolution
from tests.support import tinymodel
torch.set_num_threads(1)

def pieces(steps):
    random = np.random.default_rng(0)
    ending = Ending(steps / 2, Source("hour", "video", "none", steps / 2))
    sound = random.normal(0, 0.1, 16_000 * 40).astype(np.float32)
    for i in range(0, steps, 80):
        frames = random.integers(0, 256, (80, 280, 280, 3), dtype=np.uint8)
        last = i + 80 >= steps
        yield Piece(frames, np.arange(i, i + 80) / 2, sound, i == 0, ending if last else None)

model = tinymodel.model(form="extractive")
model.backbone.resolution = Resolution.plain(280 * 280)
model.encode(pieces(160))
before = peak_memory(torch.device("cpu"))
clip = model.encode(pieces(int(sys.argv[1])))
print(peak_memory(torch.device("cpu")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="would prove what memory a long clip takes, which Linux tells")
def test_memory_does_not_hold_the_frames_of_a_long_clip() -> None:
    steps = 1600  # 376 MB of frames, 1.5 GB of patches; 51 MB of sound, of which the log-mel waits
    asked = [sys.executable, "-c", HOUR, str(steps)]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment() | GIVEN_BACK, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 110e6, f"{int(done.stdout) / 1e6:.0f} MB"


def test_the_plan_of_a_long_clip_needs_its_extent_alone(long_film: Path) -> None:
    from echoingpixels.planning.meta_model import outline

    drawn = outline("tiny", LoadOptions(device="cpu"))
    size = drawn.model.frame_size
    extent = extent_of(stream_clip(long_film, frame_size=size))
    planned = plan.plan(drawn, extent, "Who?", AskOptions())
    read = read_clip(long_film, frame_size=size)
    assert planned.report.tokens == plan.plan(drawn, read, "Who?", AskOptions()).report.tokens
    hour = replace(extent, times=tuple(i / 2 for i in range(7200)), samples=16_000 * 3600)
    (note,) = plan.plan(drawn, hour, "Who?", AskOptions()).warnings
    assert "the model was made for 32,768" in note


def test_the_cost_of_scoring_grows_no_faster_than_the_length() -> None:
    model = tinymodel.model()
    one, four = (model.selection_flops("cs2", n, 50) for n in (100_000, 400_000))
    assert four < 4.2 * one
    assert windows.passes(100_000, 50)[-1] <= windows.AT_ONCE


def test_an_explanation_of_a_long_clip_leaves_out_large_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation, "AT_ONCE", 50)
    model, clip = tinymodel.model(form="extractive"), tinymodel.clip(4.0)
    made = explanation.explain(
        model.encode(clip), clip, "Who?", AskOptions(keep=0.2, generate=SHORT), keeps=(0.05, 0.1, 0.9, 1.0)
    )
    assert [choice.setting.keep for choice in made.choices] == [0.05, 0.1, 0.2] and made.left_out == (0.9, 1.0)
    assert made.remarks == ("Skipped, as they would read more than 50 tokens: 0.9, 1.",)


def test_many_frames_are_shown_smaller_and_few_at_full_size() -> None:
    assert shown_size(270, 480) == shown_size(270, 480, 100) == (270, 480)
    height, width = shown_size(270, 480, 7200)
    assert 7200 * height * width == pytest.approx(MOST_PIXELS, rel=0.02)
