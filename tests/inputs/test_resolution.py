"""How many pixels a model sees of a picture, a video and a long video, and that every way to it gives the same."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints.loading import KNOWN, weights_of
from echoingpixels.errors import OptionError
from echoingpixels.inputs.patches import LEAST_TOKENS, STEP, TOKEN, Resolution, fit
from echoingpixels.inputs.positions import Span
from echoingpixels.inputs.prepare import extent_of, prepare_media, span_of
from echoingpixels.media import Worker, read_clip, stream_clip
from echoingpixels.media.clip import Clip, Source
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions
from echoingpixels.planning.catalog import clip_like, known_models
from echoingpixels.planning.meta_model import outline
from echoingpixels.planning.plan import plan
from echoingpixels.train.clips import cut
from tests.support import tinymodel
from tests.support.clips import Film, write

QWEN = Resolution()
SHORT = AskOptions("uniform", 0.5, GenerateOptions(2))
SHARED = Resolution(
    video_min=6 * TOKEN, video_max=9 * TOKEN, image_min=TOKEN, image_max=60 * TOKEN, clip_tokens=LEAST_TOKENS
)

SHAPES = st.tuples(*[st.floats(0, 8.5).map(lambda power: int(np.exp(power)))] * 2)  # (height, width), 1 to 4,914
EXTREMES = [(1, 1), (1, 5000), (5000, 1), (2, 9), (720, 1280), (800, 1920), (400, 600), (28, 28 * 200), (140, 672)]


def qwen(max_pixels: int | None = None) -> EchoingPixels:
    """Qwen2.5-Omni's outline."""
    return outline("qwen2.5-omni-3b", LoadOptions(device="cpu", max_pixels=max_pixels)).model


def small(resolution: Resolution) -> EchoingPixels:
    """The random thinker, that sees frames so large."""
    on = tinymodel.backbone()
    return EchoingPixels(QwenOmni(on.thinker, on.tokenizer, on.name, resolution))


def tokens(size: tuple[int, int]) -> int:
    return size[0] * size[1] // TOKEN


@pytest.mark.parametrize(
    ("shape", "frames", "image", "size", "count"),
    [
        ((3024, 4032), 1, True, (840, 1148), 1230),  # photo
        ((1080, 1920), 1, True, (728, 1316), 1222),  # screenshot
        ((480, 640), 1, True, (476, 644), 391),  # an image between the limits
        ((20, 20), 1, True, (56, 56), 4),
        ((720, 1280), 120, False, (252, 448), 144),
        ((1280, 720), 120, False, (448, 252), 144),
        ((480, 640), 120, False, (280, 364), 130),
        ((144, 256), 120, False, (252, 448), 144),  # a small video is scaled up
        ((240, 320), 120, False, (280, 392), 140),
        ((800, 1920), 120, False, (196, 504), 126),
    ],
)
def test_qwen_sees_images_and_video_as_its_own_tools_show_them(
    shape: tuple[int, int], frames: int, image: bool, size: tuple[int, int], count: int
) -> None:
    assert qwen().frame_size(*shape, frames, image) == size and tokens(size) == count


def test_frames_of_video_have_about_128_to_144_tokens_a_pair() -> None:
    for height, width in ((360, 640), (720, 1280), (1080, 1920), (480, 854), (576, 720), (800, 1920), (1080, 1080)):
        for shape in ((height, width), (width, height)):
            assert 120 <= tokens(QWEN.size(*shape, 120)) <= 144, shape


def test_a_long_clip_shares_its_tokens_among_its_frames() -> None:
    found = {frames: tokens(QWEN.size(720, 1280, frames)) for frames in (120, 768, 1600, 1800, 3600, 7200, 14_400)}
    assert [found[frames] for frames in (120, 768, 1600)] == [144] * 3
    assert list(found.values()) == sorted(found.values(), reverse=True)
    for frames, each in found.items():
        assert each * frames / STEP <= 115_200, frames
    assert found[7200] > 20 and tokens(QWEN.size(720, 1280, 1_000_000)) == LEAST_TOKENS - 1  # 3 x 5
    for frames in (1, 120, 7200):  # an image shares with none
        assert QWEN.size(720, 1280, frames, image=True) == QWEN.size(720, 1280, 1, image=True)


@pytest.mark.parametrize(
    "resolution", [QWEN, SHARED, QWEN.limited(50_176), QWEN.limited(105_369), Resolution.plain(224 * 224)], ids=str
)
@settings(max_examples=50, deadline=None)
@given(shapes=st.lists(SHAPES, min_size=20, max_size=40), frames=st.integers(0, 100_000), image=st.booleans())
@example(shapes=EXTREMES, frames=0, image=True)
@example(shapes=EXTREMES, frames=120, image=False)
@example(shapes=EXTREMES, frames=2000, image=False)
@example(shapes=EXTREMES, frames=100_000, image=False)
def test_a_second_fit_changes_nothing(
    resolution: Resolution, shapes: list[tuple[int, int]], frames: int, image: bool
) -> None:
    most = resolution.image_max if image else resolution.most(frames)
    for shape in shapes:
        once = resolution.size(*shape, frames, image)
        assert resolution.size(*once, frames, image) == once, shape
        assert 0 < once[0] * once[1] <= most and once[0] % 28 == once[1] % 28 == 0, shape


@settings(max_examples=50, deadline=None)
@given(shapes=st.lists(SHAPES, min_size=20, max_size=40), least=st.integers(1, 1300), room=st.integers(0, 64))
@example(
    shapes=[(height, width) for height in range(100, 1500, 37) for width in range(100, 1500, 41)], least=128, room=16
)
def test_limits_that_lie_close_together_are_kept(shapes: list[tuple[int, int]], least: int, room: int) -> None:
    limits = least * TOKEN, (least + room) * TOKEN
    for shape in shapes:
        h, w = fit(*shape, *limits)
        assert h * w <= limits[1] and fit(h, w, *limits) == (h, w), shape


def test_max_pixels_takes_the_place_of_every_maximum_and_lowers_the_minimum() -> None:
    low = qwen(50_176)
    assert low.backbone.resolution == Resolution(50_176, 50_176, 3136, 50_176, 115_200)
    assert tokens(low.frame_size(720, 1280, 120)) == tokens(low.frame_size(720, 1280, 1, True)) == 60
    high = qwen(768 * TOKEN)
    assert tokens(high.frame_size(720, 1280, 120)) == 720 and tokens(high.frame_size(3024, 4032, 1, True)) == 768
    assert high.frame_size(144, 256, 120) == (252, 448)  # and its minimum is as before
    assert tokens(high.frame_size(720, 1280, 768)) <= 300  # all frames share the tokens of a clip still
    with pytest.raises(OptionError, match="max_pixels is 100"):
        qwen(100)


def test_tiny_sees_as_before() -> None:
    model = outline("tiny", LoadOptions(device="cpu")).model
    for image in (False, True):
        assert model.frame_size(720, 1280, 120, image) == (112, 196)
        assert model.frame_size(720, 1280, 100_000, image) == (112, 196)
        assert model.frame_size(30, 30, 2, image) == (56, 56)
    assert model.backbone.resolution.warnings(Span(tuple(map(float, range(100_000))), 4, 7, 0)) == ()


def test_a_folder_without_limits_of_its_own_has_those_of_qwen(tmp_path: Path) -> None:
    config = (Path(KNOWN["tiny"]) / "config.json").read_text()
    for file in Path(KNOWN["tiny"]).iterdir():
        if file.is_file() and file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").write_text(config.replace('"max_pixels": 25088,', ""))
    assert outline(str(tmp_path), LoadOptions(device="cpu")).model.backbone.resolution == QWEN
    assert outline("tiny", LoadOptions(device="cpu")).model.backbone.resolution == Resolution.plain(25_088)


@pytest.mark.parametrize("seconds", [4.0, 12.0])
def test_frames_are_of_one_size_however_they_come(tmp_path: Path, seconds: float) -> None:
    """4 s have 4 frame pairs of 28 tokens; 12 s have too many for 20 each, the minimum."""
    path = write(tmp_path / "a.mp4", Film(seconds=seconds, size=(180, 320)))
    scarce = replace(SHARED, clip_tokens=112, video_min=20 * TOKEN, video_max=28 * TOKEN)
    model = small(scarce)
    sized = read_clip(path, frame_size=model.frame_size)
    raw = read_clip(path)
    want = span_of(extent_of(sized.pieces()), scarce)
    assert (want.rows * 28, want.columns * 28) == sized.frames.shape[1:3]
    with Worker() as worker:
        by_worker = worker.read(path, frame_size=model.frame_size)
    assert np.array_equal(by_worker.frames, sized.frames) and by_worker.expected == sized.expected
    for clip in (raw, sized, by_worker):
        assert prepare_media(clip, scarce).span == want
        assert model.encode(clip).media.span == want
    assert model.encode(stream_clip(path, frame_size=model.frame_size)).media.span == want
    assert model.encode(stream_clip(path)).media.span == want
    each = want.rows * want.columns
    assert each >= 15 and (each < 20) == (seconds > 4)


def test_fewer_frames_than_expected_do_not_change_their_size() -> None:
    """As of a slide show: 400 frames were foreseen, and 10 came."""
    resolution = replace(QWEN, clip_tokens=200 * 20)
    size = resolution.size(720, 1280, 400)
    frames = np.zeros((10, *size, 3), np.uint8)
    clip = Clip(frames, np.arange(10.0), None, 10.0, Source("it", "video", "none", 10.0), expected=400)
    span = span_of(extent_of(clip.pieces()), resolution)
    assert (span.rows * 28, span.columns * 28) == size and tokens(size) <= 20
    alone = span_of(extent_of(replace(clip, expected=0).pieces()), resolution)
    assert alone.rows * alone.columns >= 120  # had it been read for 10


def test_a_clip_that_training_cuts_keeps_the_size_of_its_frames() -> None:
    model = small(SHARED)
    clip = tinymodel.clip(9.0)
    whole = span_of(extent_of(clip.pieces()), SHARED)
    clip = replace(clip, expected=len(clip.frames))
    part = cut(model.backbone, clip, 120)
    assert part.duration < 9.0
    span = span_of(extent_of(part.pieces()), SHARED)
    assert (span.rows, span.columns) == (whole.rows, whole.columns)


def test_a_plan_has_the_tokens_that_a_run_has() -> None:
    for resolution in (SHARED, replace(SHARED, clip_tokens=2 * LEAST_TOKENS, video_max=30 * TOKEN)):
        model = small(resolution)
        clip = tinymodel.clip(9.0)
        drawn = replace(outline("tiny", LoadOptions(device="cpu")), model=model)
        planned = plan(drawn, clip, "Who?", SHORT)
        real = model.encode(clip).ask("Who?", SHORT)
        assert planned.report.tokens == real.report.tokens
        assert [text for text in planned.warnings if "frame pairs" in text] == list(real.warnings) != []


def test_frames_below_the_minimum_cause_a_warning() -> None:
    def warning(frames: int, resolution: Resolution = QWEN) -> str:
        extent = replace(clip_like(qwen()), times=tuple(np.arange(frames) / 2), expected=frames)
        return " ".join(resolution.warnings(span_of(extent, resolution)))

    assert warning(120) == warning(1600) == warning(1800) == ""
    assert "3,600 frame pairs share 115,200 tokens: 28 each; the model expects 128 or more." in warning(7200)
    assert "--max-frames" in warning(7200)
    assert "made for 115,200 tokens of video" in warning(20_000)
    assert warning(7200, QWEN.limited(12_544)) == "" and warning(7200, Resolution.plain(3136)) == ""


def test_the_known_models_are_planned_for_a_minute_of_720p_at_their_own_resolution() -> None:
    spans = {
        name: span_of(clip_like(drawn), drawn.backbone.resolution)
        for name in KNOWN
        for drawn in (outline(name, LoadOptions(device="cpu")).model,)
    }
    assert {name: (len(s.times), s.rows * s.columns, s.audio_tokens) for name, s in spans.items()} == {
        "tiny": (60, 28, 1500),
        "qwen2.5-omni-3b": (60, 144, 1500),
        "qwen2.5-omni-7b": (60, 144, 1500),
    }
    needs = {entry.name: {need.quant: need.peak for need in entry.needs} for entry in known_models("cpu")}
    assert needs["qwen2.5-omni-3b"]["nf4"] < needs["qwen2.5-omni-7b"]["nf4"] < needs["qwen2.5-omni-7b"]["none"]


def test_what_is_kept_of_a_clip_is_known_by_the_resolution_too() -> None:
    plain, other = (weights_of("tiny", LoadOptions(device="cpu", max_pixels=most)) for most in (None, 12_544))
    assert plain.encoders != other.encoders and plain.resolution != other.resolution
    assert pickle.loads(pickle.dumps(plain.resolution.size))(720, 1280, 120, False) == (112, 196)
