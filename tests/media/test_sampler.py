"""Which frames are kept: checked on bare numbers, against the rule spelled out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from echoingpixels.media.sampler import Sampler


def sample(
    times: list[float], fps: float, most: int, span: float | None, end: float
) -> tuple[list[float], list[int], int]:
    """Times kept, numbers of the frames kept, and the most frames held at once."""
    sampler: Sampler[int] = Sampler(fps, most, span, lambda i: np.full((1, 1, 3), i % 256, np.uint8))
    held = 0
    for i, time in enumerate(times):
        sampler.offer(time, i)
        held = max(held, len(sampler._kept))
    kept, pixels = sampler.finish(end)
    return kept.tolist(), [int(p[0, 0, 0]) for p in pixels], held


def slow_and_obvious(times: list[float], fps: float, most: int, end: float) -> list[int]:
    """For each target, the last frame that began by then; each frame once."""
    step = 1 / fps if end * fps <= most else end / most
    kept: list[int] = []
    for i in range(10_000):
        if i * step >= end - 5e-4:
            break
        shown = max((j for j, time in enumerate(times) if time <= i * step + 5e-4), default=0)
        if shown not in kept:
            kept.append(shown)
    return kept


@settings(max_examples=50, deadline=None)
@given(
    milliseconds=st.lists(st.integers(0, 20_000), min_size=1, max_size=200).map(sorted),
    from_zero=st.booleans(),
    fps=st.sampled_from([0.3, 1.0, 2.0, 5.0]),
    most=st.sampled_from([1, 4, 16, 200]),
)
def test_the_kept_frames_follow_the_rule(milliseconds: list[int], from_zero: bool, fps: float, most: int) -> None:
    first = milliseconds[0] if from_zero else 0
    times = [(time - first) / 1000 for time in milliseconds]
    end = times[-1] + 0.0403  # no target falls on the edge of the tolerance
    kept, numbers, _ = sample(times, fps, most, end, end)
    assert numbers == slow_and_obvious(times, fps, most, end)
    assert kept == [times[i] for i in numbers]


@settings(max_examples=50, deadline=None)
@given(
    milliseconds=st.lists(st.integers(0, 20_000), min_size=1, max_size=200, unique=True).map(sorted),
    fps=st.sampled_from([0.3, 1.0, 2.0, 5.0, 25.0]),
    most=st.sampled_from([4, 200]),
    known=st.booleans(),
)
def test_a_frame_covers_a_target_exactly_if_it_is_kept(
    milliseconds: list[int], fps: float, most: int, known: bool
) -> None:
    times = [(time - milliseconds[0]) / 1000 for time in milliseconds]
    taken: list[int] = []
    sampler: Sampler[int] = Sampler(
        fps, most, times[-1] + 0.04 if known else None, lambda i: (taken.append(i), np.zeros((1, 1, 3), np.uint8))[1]
    )
    for i, time in enumerate(times[:-1]):
        sampler.offer(time, i)
        covers = sampler.covers(time, times[i + 1])
        sampler.offer(times[i + 1], i + 1)
        assert covers == (i in taken)


def test_an_unknown_length_is_sampled_evenly_in_bounded_memory() -> None:
    times = [i / 25 for i in range(25 * 400)]
    kept, _, held = sample(times, 2, 10, None, 400.0)
    assert len(kept) == 10 and held <= 21
    assert kept[0] == 0 and kept[-1] > 320
    steps = np.diff(kept)
    assert steps.max() <= 2 * steps.min() + 0.05


def test_a_video_longer_than_its_stated_length_is_covered_to_its_end() -> None:
    kept, _, held = sample([i / 25 for i in range(25 * 300)], 2, 10, 20.0, 300.0)
    assert len(kept) == 10 and held <= 21 and kept[-1] > 240


def test_a_frame_of_several_targets_is_kept_once() -> None:
    assert sample([0.0, 1.0, 2.0], 4, 100, 3.0, 3.0)[0] == [0.0, 1.0, 2.0]


def test_a_frame_shown_before_the_start_counts_from_zero() -> None:
    assert sample([-0.4, 0.6], 2, 100, 1.0, 1.0)[0] == [0.0]
    assert sample([-0.4, 0.5], 2, 100, 1.0, 1.0)[0] == [0.0, 0.5]


def test_no_frame_is_kept_when_all_end_before_the_start() -> None:
    assert sample([-2.0, -1.0], 2, 100, None, -0.5)[0] == []
