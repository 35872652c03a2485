"""Every way to choose tokens: how many of what, which, and that a batch is no more than its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.errors import OptionError
from echoingpixels.inputs.positions import AUDIO, VIDEO
from echoingpixels.inputs.token_stream import Selection, TokenStream, budget, pad
from echoingpixels.model import EchoingPixels
from echoingpixels.reducer_names import IN_DECODER, REDUCER_NAMES, check_reducer
from echoingpixels.reducers.budget import WINDOW_S
from echoingpixels.reducers.registry import COVERED
from tests.support import tinymodel
from tools.quotas import REDUCERS as SHARES

NOISE = 2e-5
RATIOS = (0.003, 0.05, 0.2, 0.31, 0.5, 1.0)
BY_WINDOW = ("diverse", "diverse-saliency")
JOINT = [name for name in REDUCER_NAMES if name not in ("full", "cs2-video", *BY_WINDOW)]  # one budget of all tokens


@torch.no_grad()
def choose(name: str, stream: TokenStream, keep: float) -> Selection:
    """What the random model chooses."""
    return tinymodel.model().select(stream, name, keep)


def rows() -> list[TokenStream]:
    """Both modalities, another such, picture alone, and text alone."""
    on = tinymodel.backbone()
    both = [tinymodel.stream(on, 4.0), tinymodel.stream(on, 2.5, seed=3)]
    return [*both, tinymodel.stream(on, 3.0, sound=False, seed=5), tinymodel.text_stream(on)]


def sound_alone() -> TokenStream:
    """Sound without picture."""
    stream = tinymodel.stream(tinymodel.backbone())
    return stream.take(Selection(stream.kind != VIDEO))


def count(kept: Tensor, stream: TokenStream, *kinds: int) -> list[int]:
    counted = kept & torch.isin(stream.kind, torch.tensor(kinds)) & stream.mask
    return counted.sum(1).tolist()


@pytest.mark.parametrize("name", REDUCER_NAMES)
@pytest.mark.parametrize("keep", [0.05, 0.3, 1.0])
def test_the_selection_of_a_row_of_a_batch_is_that_of_the_row_alone(name: str, keep: float) -> None:
    single = rows()
    together = pad(single)
    kept = choose(name, together, keep).keep
    for i, row in enumerate(single):
        assert torch.equal(kept[i][together.mask[i]], choose(name, row, keep).keep[0])
    assert not bool((kept & ~together.mask).any())


@pytest.mark.parametrize("name", REDUCER_NAMES)
def test_the_selection_of_a_stream_repeats(name: str) -> None:
    stream = rows()[0]
    torch.manual_seed(1)
    first = choose(name, stream, 0.2).keep
    torch.manual_seed(2)
    assert torch.equal(first, choose(name, stream, 0.2).keep)


@pytest.mark.parametrize("name", [name for name in JOINT if name not in IN_DECODER])  # which enter with more
def test_all_text_and_exactly_the_budget_are_kept(name: str) -> None:
    stream = pad([*rows(), sound_alone()])
    text = stream.mask & ~stream.pool
    for keep in RATIOS:
        kept = choose(name, stream, keep).keep
        assert (kept & stream.pool).sum(1).tolist() == budget(stream.pool, keep).tolist()
        assert bool(kept[text].all())


@pytest.mark.parametrize("name", REDUCER_NAMES)
def test_keeping_all_tokens_is_the_same_for_every_reducer(name: str) -> None:
    assert bool(choose(name, rows()[0], 1.0).keep.all())


def test_full_keeps_everything_whatever_the_ratio() -> None:
    assert bool(choose("full", rows()[0], 0.01).keep.all())


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.31, 0.5])
def test_uniform_choice_leaves_no_gap_much_longer_than_another(keep: float) -> None:
    stream = tinymodel.stream(tinymodel.backbone(), 6.0)
    kept = choose("uniform", stream, keep).keep[stream.pool].nonzero()[:, 0]
    gaps = kept.diff()
    assert int(gaps.max() - gaps.min()) <= 1


@pytest.mark.parametrize("keep", RATIOS)
def test_proportional_gives_each_modality_its_share_by_largest_remainder(keep: float) -> None:
    stream = pad([*rows(), sound_alone()])
    kept = choose("cs2-proportional", stream, keep).keep
    ks = budget(stream.pool, keep).tolist()
    for n_audio, n_video, k, audio, video in zip(
        count(stream.mask, stream, AUDIO),
        count(stream.mask, stream, VIDEO),
        ks,
        count(kept, stream, AUDIO),
        count(kept, stream, VIDEO),
        strict=True,
    ):
        due = [Fraction(k * n, max(1, n_audio + n_video)) for n in (n_audio, n_video)]
        want = [int(share) for share in due]
        if sum(want) < k:
            want[0 if due[0] - want[0] > due[1] - want[1] else 1] += 1
        assert [audio, video] == want


@pytest.mark.parametrize("keep", RATIOS)
def test_half_gives_each_modality_half_and_what_one_cannot_use_to_the_other(keep: float) -> None:
    stream = pad([*rows(), sound_alone()])
    kept = choose("cs2-half", stream, keep).keep
    ks = budget(stream.pool, keep).tolist()
    counts = zip(count(stream.mask, stream, AUDIO), count(stream.mask, stream, VIDEO), ks, strict=True)
    for i, (n_audio, n_video, k) in enumerate(counts):
        audio, video = count(kept, stream, AUDIO)[i], count(kept, stream, VIDEO)[i]
        assert audio + video == k
        if audio != k // 2:  # only because one of them has no more
            assert audio == n_audio < k // 2 or video == n_video < k - k // 2


@pytest.mark.parametrize("keep", RATIOS)
def test_video_only_keeps_all_audio_and_takes_its_budget_from_the_video_tokens(keep: float) -> None:
    stream = pad([*rows(), sound_alone()])
    kept = choose("cs2-video", stream, keep).keep
    video = stream.mask & (stream.kind == VIDEO)
    assert count(kept, stream, AUDIO) == count(stream.mask, stream, AUDIO)
    assert count(kept, stream, VIDEO) == budget(video, keep).tolist()
    assert bool(kept[stream.mask & ~stream.pool].all())


@pytest.mark.parametrize("name", ["cs2-proportional", "cs2-half", "cs2-video"])
def test_within_a_modality_the_best_scores_are_kept(name: str) -> None:
    stream = rows()[0]
    selection = choose(name, stream, 0.3)
    assert selection.scores is not None
    for kind in (AUDIO, VIDEO):
        of_kind = stream.kind == kind
        kept, left = selection.scores[selection.keep & of_kind], selection.scores[~selection.keep & of_kind]
        assert not len(left) or kept.min() >= left.max()


@pytest.mark.parametrize("form", ["fused", "extractive"])
@pytest.mark.parametrize("name", ["cs2", *SHARES])
@torch.no_grad()
def test_every_share_of_the_budget_has_the_sieve_s_tokens_and_scores(name: str, form: str) -> None:
    model = tinymodel.model(form=form)
    for stream in (rows()[0], rows()[3]):
        sieved, mine = model.select(stream, "cs2", 0.2), model.select(stream, name, 0.2)
        for field in ("fused", "scores"):
            one, other = getattr(sieved, field), getattr(mine, field)
            assert one is other is None or torch.equal(one, other)


def test_one_modality_alone_is_one_pool() -> None:
    stream = rows()[2]
    joint = choose("cs2", stream, 0.3).keep
    assert all(torch.equal(choose(name, stream, 0.3).keep, joint) for name in SHARES if name != "cs2-random")


def slow_difference(stream: TokenStream, place: int) -> float:
    """1 - cosine to the token before in the same cell, or to the audio token before; infinite without one."""
    kind, cell, time = stream.kind[0], stream.cell[0].tolist(), stream.time[0]
    for before in range(place - 1, -1, -1):
        if kind[before] == kind[place] and cell[before] == cell[place]:
            if time[before] >= time[place]:
                break
            one, other = stream.embeds[0, before], stream.embeds[0, place]
            return 1 - float(one @ other / one.norm() / other.norm())
    return float("inf")


def test_repeats_are_compared_with_the_neighbour_before() -> None:
    on = tinymodel.backbone()
    one, other = tinymodel.stream(on, 3.0), tinymodel.stream(on, 2.0, seed=4)
    both = {
        name: torch.cat([getattr(s, name) for s in (one, other)], 1)
        for name in ("embeds", "kind", "time", "cell", "mask")
    }
    for stream in (one, replace(one, **both)):  # a second clip starts without a neighbour
        scores = choose("repeats", stream, 0.3).scores
        assert scores is not None
        places = stream.pool[0].nonzero()[:, 0].tolist()
        slow = torch.tensor([slow_difference(stream, place) for place in places])
        torch.testing.assert_close(scores[0, places], slow, rtol=0, atol=NOISE)
        assert int(slow.isinf().sum()) == (1 if stream is one else 2) * (1 + int((one.cell[0] >= 0).all(-1).sum()) // 3)


def test_a_still_picture_with_silence_is_kept_once() -> None:
    stream = rows()[0]
    pool, first = stream.pool, choose("repeats", stream, 1.0).scores
    assert first is not None
    fresh = pool & first.isinf()
    still = replace(stream, embeds=torch.where(pool[..., None], torch.ones_like(stream.embeds), stream.embeds))
    kept = choose("repeats", still, float(fresh.sum() / pool.sum()) - 1e-6).keep
    assert torch.equal(kept & pool, fresh)


@pytest.fixture(params=["sdpa", "eager"])
def on(request: pytest.FixtureRequest) -> Iterator[QwenOmni]:
    """The random thinker under each attention kernel, which has grouped key and value heads."""
    backbone = tinymodel.backbone(request.param)
    assert backbone.shape.kv_heads < backbone.shape.heads
    yield backbone
    assert backbone.text.config._attn_implementation == request.param


@pytest.mark.parametrize("keep", [0.1, 0.3])
@torch.no_grad()
def test_relevance_gives_every_window_its_part_of_a_share_and_the_rest_to_the_best(on: QwenOmni, keep: float) -> None:
    stream = tinymodel.stream(on, 9.0)
    selection = EchoingPixels(on).select(stream, "relevance", keep)
    assert selection.scores is not None
    scores, pool, kept = selection.scores[0], stream.pool[0], selection.keep[0] & stream.pool[0]
    windows = [pool & (stream.time[0] // WINDOW_S == i) for i in range(5)]
    part = int(COVERED * int(budget(stream.pool, keep)) / len(windows))
    assert part > 0 and sum(int(window.sum()) for window in windows) == int(pool.sum())
    outline = torch.zeros_like(pool)
    for window in windows:
        outline |= pool & window & (scores >= scores[window].sort(descending=True).values[part - 1])
    rest = int(budget(stream.pool, keep)) - part * len(windows)
    best = scores.masked_fill(~pool | outline, -1.0).topk(rest).indices
    wanted = outline.index_fill(0, best, True)
    assert torch.equal(kept, wanted)


def test_an_unknown_reducer_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError) as caught:
        check_reducer("best")
    assert all(name in caught.value.hint for name in REDUCER_NAMES)


@pytest.mark.parametrize("name", REDUCER_NAMES)
def test_a_known_reducer_is_taken(name: str) -> None:
    assert check_reducer(name) == name
