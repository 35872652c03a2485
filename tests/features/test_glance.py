"""Two looks at a clip: where coarse cells stand, which windows are seen closely, and what is there then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.features.cache import FeatureCache
from echoingpixels.features.coarse_to_fine import chosen, coarse_size, places, windows
from echoingpixels.inputs import patches as F
from echoingpixels.inputs.patches import Resolution
from echoingpixels.inputs.positions import AUDIO, VIDEO, Span
from echoingpixels.inputs.prepare import Media, extent_of, prepare_media
from echoingpixels.looking import look
from echoingpixels.media import stream_clip
from echoingpixels.media.clip import Clip
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions, read_encode
from echoingpixels.planning.meta_model import outline
from echoingpixels.planning.plan import plan
from tests.support import tinymodel

SHORT = AskOptions("cs2", 0.5, GenerateOptions(3))


def glancing(share: float, sieved: bool = True) -> EchoingPixels:
    """The random thinker, that takes frames of up to 6 x 6 cells and looks twice."""
    on = tinymodel.backbone()
    limits = Resolution.plain(168 * 168, 28 * 28)
    twice = QwenOmni(on.thinker, on.tokenizer, on.name, limits, read_encode(f"glance:{share}"))
    return EchoingPixels(twice, tinymodel.sieve(on) if sieved else None)


def clip(seconds: float = 4.0, sound: bool = True) -> Clip:
    """A noisy clip of 5 x 6 cells."""
    noise = np.random.default_rng(3).integers(0, 256, (int(2 * seconds), 140, 168, 3), dtype=np.uint8)
    return replace(tinymodel.clip(seconds, sound), frames=noise)


def grid(steps: int, rows: int, columns: int) -> Media:
    return Media(Span(tuple(map(float, range(steps))), rows, columns))


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (5, 6), (3, 7), (2, 2)])
def test_there_is_a_place_for_every_coarse_cell(rows: int, columns: int) -> None:
    height, width = coarse_size((rows, columns))
    there = places(grid(3, rows, columns)).view(3, rows, columns)
    assert int(there.sum()) == 3 * (height // F.FACTOR) * (width // F.FACTOR)
    assert there[1].nonzero().tolist() == [[r, c] for r in range(0, rows, 2) for c in range(0, columns, 2)]


def test_windows_are_those_of_the_tower() -> None:
    of = windows(grid(2, 5, 6), 4).view(2, 5, 6)
    for step in range(2):
        for row in range(5):
            for column in range(6):
                assert of[step, row, column] == step * 4 + row // 4 * 2 + column // 4


def test_the_windows_with_the_best_coarse_cells_are_seen_closely() -> None:
    media = grid(2, 5, 6)
    of, there = windows(media, 4), places(media)
    scores = torch.zeros(int(there.sum()))
    scores[of[there] == 6] = 2.0
    scores[(of[there] == 1).nonzero()[-1]] = 1.0
    assert of[chosen(media, 4, scores, 0.25)].unique().tolist() == [1, 6]
    assert of[chosen(media, 4, scores, 0.3)].unique().tolist() == [0, 1, 6]  # the earlier of those that tie
    assert not chosen(media, 4, scores, 0.0).any() and bool(chosen(media, 4, scores, 1.0).all())


@pytest.mark.parametrize("sieved", [True, False])
def test_all_windows_seen_closely_are_the_clip_as_without_a_glance(sieved: bool) -> None:
    twice = glancing(1.0, sieved)
    looked, on = twice.look(clip()), twice.backbone
    with torch.no_grad():
        want = on.encode(prepare_media(clip(), on.resolution))
    seen = looked.seen_for(twice.prepare(looked.media, "Who?"), looked.watch)
    assert torch.equal(seen.video, want.video) and torch.equal(seen.audio, want.audio)
    assert seen.there is not None and bool(seen.there.all())


def first_and_second(share: float) -> tuple[EncodedClip, torch.Tensor]:
    looked = glancing(share).look(clip())
    return looked, looked.seen_for(looked.model.prepare(looked.media, "Who?"), looked.watch)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6])
def test_what_is_there_is_fine_in_windows_seen_closely_and_coarse_elsewhere(share: float) -> None:
    looked, seen = first_and_second(share)
    of, there = windows(looked.media, 2), places(looked.media)
    close = seen.seen.view(-1)
    assert len(of[close].unique()) == int(np.ceil(share * len(of.unique())))
    for window in of.unique():
        cells = of == window
        assert torch.equal(seen.there[cells], torch.ones_like(there[cells]) if close[cells].any() else there[cells])
    assert torch.equal(seen.video[there & ~close], looked.features.video[there & ~close])


def test_the_stream_has_the_tokens_that_are_there_at_their_own_positions() -> None:
    looked, seen = first_and_second(0.25)
    prompt = looked.model.prepare(looked.media, "Who?")
    stream = looked.model.embed(prompt, (seen,))
    pictures = prompt.kind[0] == VIDEO
    assert torch.equal(stream.positions[:, 0, stream.kind[0] == VIDEO], prompt.positions[:, 0, pictures][:, seen.there])
    assert torch.equal(stream.embeds[0, stream.kind[0] == VIDEO], seen.video[seen.there])
    assert int((stream.kind == AUDIO).sum()) == looked.media.span.audio_tokens
    assert stream.before["video"] == len(seen.there) and stream.next_position == prompt.positions.max() + 1


def test_the_report_counts_both_looks_and_the_whole_clip() -> None:
    looked, seen = first_and_second(0.25)
    report = looked.answer("Who?", SHORT).report
    coarse, close = int(places(looked.media).sum()), int(seen.seen.sum())
    assert report.encoded["video"] == coarse + close < report.tokens.video.before == 4 * 30
    on = looked.model.backbone
    assert on.tower_flops(looked.glance.coarse) < looked.glance.flops(on, seen) < on.tower_flops(looked.media)


@pytest.mark.parametrize("frames", [0, 8])
def test_a_clip_too_small_for_two_looks_gets_one(frames: int) -> None:
    twice = glancing(0.25)
    twice.backbone.resolution = Resolution.plain(168 * 168, 2 * 28 * 28)
    small = replace(clip(), frames=clip().frames[:frames, :56, :56], times=clip().times[:frames])
    looked = twice.look(small)
    assert looked.glance is None and looked.features.there is None and looked.answer("Who?", SHORT).token_ids


def test_a_glance_is_not_kept_since_its_frames_are_needed_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    view = look(glancing(0.25), clip(), {}, cache, "ab" * 32)
    view.keep()
    assert not view.cached and cache.entries() == []


def test_a_plan_says_that_it_counts_everything(film: Path, tiny: str) -> None:
    drawn = outline(tiny, LoadOptions(device="cpu", encode="glance:0.5"))
    extent = extent_of(stream_clip(film))
    said = [one for one in plan(drawn, extent, "Who?", AskOptions()).warnings if "glance:0.5" in one]
    assert len(said) == 1
    assert not any(
        "encodes" in one for one in plan(outline(tiny, LoadOptions()), extent, "Who?", AskOptions()).warnings
    )
